"""The values that travel between floors: calls, contexts, events, usage, errors. No I/O and no clock."""
