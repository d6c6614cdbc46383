"""The way of a call: resolve, encode, open, send, decode, settle. Applications and the server both call it."""
