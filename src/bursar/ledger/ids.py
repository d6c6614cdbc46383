"""Ids that sort by time: UUID version 7 (RFC 9562, section 5.7)."""

from __future__ import annotations

from random import getrandbits

# rand_a carries the fraction of the millisecond in 12 bits (method 3 of section 6.2).
_FRACTIONS = [f"{us * 4096 // 1000:03x}" for us in range(1000)]
_VARIANT = 0x8000_0000_0000_0000
# The last millisecond, and how its ids begin: under load many are of one.
_last = [(-1, "")]


def uuid7(now_us: int) -> str:
    """A new UUIDv7 for a time in microseconds since 1970; the microseconds keep ids of one millisecond in order.

    The random bits are of the interpreter's own generator, which is seeded from the system, anew after a fork: an id
    is unique, and no secret.
    """
    ms, us = divmod(now_us, 1000)
    last, begins = _last[0]
    if ms != last:
        begins = f"{ms >> 16:08x}-{ms & 0xFFFF:04x}-7"
        _last[0] = ms, begins
    rest = "%016x" % (_VARIANT | getrandbits(62))
    return f"{begins}{_FRACTIONS[us]}-{rest[:4]}-{rest[4:]}"
