"""The way out: transports that send a request and yield an answer's bytes. The only floor with an HTTP client."""
