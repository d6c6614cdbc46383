"""What the tests are made with: a fault-injecting provider, the server as a process, a reader of the ledger."""
