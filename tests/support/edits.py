"""Bytes with something written over a part of them, for what must not take them for what they were."""

from __future__ import annotations

from hypothesis import strategies as st

Edits = list[tuple[int, int, bytes]]
"""Where, over how many bytes, and what."""


def edits_of(data: bytes, *likely: bytes) -> st.SearchStrategy[Edits]:
    """Up to three edits of an HTTP message; `likely` are what is worth writing into it."""
    odd = [b"\r\n", b": ", b":", b" ", b"\t", b"x", b"5", b"\r", b"\n", b"\0", b"\x7f", b"\xc3"]
    new = st.one_of(st.binary(max_size=3), st.sampled_from(odd), st.sampled_from(likely))
    return st.lists(st.tuples(st.integers(0, len(data) + 4), st.integers(0, 6), new), max_size=3)


def edited(data: bytes, edits: Edits) -> bytes:
    changed = bytearray(data)
    for at, size, new in edits:
        changed[at : at + size] = new
    return bytes(changed)
