"""Ids that sort by time: UUID version 7 (RFC 9562, section 5.7)."""

from __future__ import annotations

import os


def uuid7(now_us: int) -> str:
    """A new UUIDv7 for a time in microseconds since 1970; the microseconds keep ids of one millisecond in order."""
    ms, us = divmod(now_us, 1000)
    # rand_a carries the fraction of the millisecond in 12 bits (method 3 of section 6.2).
    high = ms << 16 | 0x7000 | us * 4096 // 1000
    low = 0x8000_0000_0000_0000 | int.from_bytes(os.urandom(8), "big") >> 2
    text = f"{high:016x}{low:016x}"
    return f"{text[:8]}-{text[8:12]}-{text[12:16]}-{text[16:20]}-{text[20:]}"
