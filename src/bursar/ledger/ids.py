"""Ids that sort by time: UUID version 7 (RFC 9562, section 5.7)."""

from __future__ import annotations

from random import getrandbits


def uuid7(now_us: int) -> str:
    """A new UUIDv7 for a time in microseconds since 1970; the microseconds keep ids of one millisecond in order.

    The random bits are of the interpreter's own generator, which is seeded from the system, anew after a fork: an id
    is unique, and no secret.
    """
    ms, us = divmod(now_us, 1000)
    # rand_a carries the fraction of the millisecond in 12 bits (method 3 of section 6.2).
    rest = getrandbits(62)
    return "%08x-%04x-7%03x-%04x-%012x" % (  # noqa: UP031
        ms >> 16,
        ms & 0xFFFF,
        us * 4096 // 1000,
        0x8000 | rest >> 48,
        rest & 0xFFFF_FFFF_FFFF,
    )
