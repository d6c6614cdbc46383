"""The ledger: an entry on disk before a request leaves, settled once, moved into the store, and proved."""
