"""Unchanged clients against a running server: what they say was used is what the ledger has, call by call."""
