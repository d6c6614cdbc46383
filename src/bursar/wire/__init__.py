"""Providers' wire formats as data, and the pure functions over bytes that read and write them."""
