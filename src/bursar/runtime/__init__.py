"""Settings read once, and the composition of everything: the only floor that names a database or an HTTP client."""
