"""Ids that sort by time: UUID version 7 (RFC 9562, section 5.7)."""

from __future__ import annotations

import os


def uuid7(now_us: int) -> str:
    """A new UUIDv7 for a time in microseconds since 1970; the microseconds keep ids of one millisecond in order."""
    ms, us = divmod(now_us, 1000)
    # rand_a carries the fraction of the millisecond in 12 bits (method 3 of section 6.2).
    high, rest = f"{ms << 16 | 0x7000 | us * 4096 // 1000:016x}", os.urandom(8).hex()
    # The variant is the two highest bits of rand_b, 10; the two below them are left at zero.
    return f"{high[:8]}-{high[8:12]}-{high[12:]}-8{rest[1:4]}-{rest[4:]}"
