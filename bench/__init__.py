"""The benchmark: gateways side by side on one machine, each call counted, the ledger on."""
