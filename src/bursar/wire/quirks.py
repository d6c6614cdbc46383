"""What a few providers do otherwise than their format says: at most ten functions, each named by specs that need it.

A quirk of usage gets the usage object and the answer or frame it came in, and gives the object to be read; the object
as it was sent stays on the ledger. A quirk of frames gets a frame's events and what it kept of the frames before, and
gives the events there are.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from bursar.types.events import Event, TextDelta

Tree = dict[str, Any]
UsageQuirk = Callable[[Tree, Tree], Tree]
FrameQuirk = Callable[[list[Event], dict[str, str]], list[Event]]


def _count(value: object) -> int:
    return value if type(value) is int else 0


def thoughts_inside(usage: Tree, _answer: Tree) -> Tree:
    """Now and then the candidates' tokens hold the thoughts already: then the total is reached without them."""
    prompt, said, tools, thoughts, total = (
        _count(usage.get(name))
        for name in (
            "promptTokenCount", "candidatesTokenCount", "toolUsePromptTokenCount", "thoughtsTokenCount",
            "totalTokenCount",
        )
    )  # fmt: skip
    if thoughts and said >= thoughts and prompt + said + tools == total:
        return {**usage, "candidatesTokenCount": said - thoughts}
    return usage


def reasoning_beside_output(usage: Tree, _answer: Tree) -> Tree:
    """Reasoning stands beside the completion where the total is reached only with it."""
    details = usage.get("completion_tokens_details")
    reasoning = _count(details.get("reasoning_tokens")) if isinstance(details, dict) else 0
    said = _count(usage.get("completion_tokens"))
    if reasoning and _count(usage.get("total_tokens")) == _count(usage.get("prompt_tokens")) + said + reasoning:
        return {**usage, "completion_tokens": said + reasoning}
    return usage


def cache_beside_input(usage: Tree, _answer: Tree) -> Tree:
    """What was cached stands beside the input, unless the input is said to be the prompt and what was cached."""
    details = usage.get("input_tokens_details")
    details = details if isinstance(details, dict) else {}
    said, cached = _count(usage.get("input_tokens")), _count(details.get("cached_tokens"))
    if cached and said != _count(details.get("prompt_tokens")) + cached:
        return {**usage, "input_tokens": said + cached}
    return usage


def usage_of_items(usage: Tree, answer: Tree) -> Tree:
    """Each vector has a usage of its own."""
    items = answer.get("data")
    given = [item.get("usage") for item in items if isinstance(item, dict)] if isinstance(items, list) else []
    each = [one for one in given if isinstance(one, dict)]
    if usage or not each:
        return usage
    return {"prompt_tokens": sum(_count(one.get("prompt_tokens")) for one in each), "items": each}


def text_so_far(events: list[Event], before: dict[str, str]) -> list[Event]:
    """Every frame has the whole text so far: what is new of it is the piece."""
    out: list[Event] = []
    for event in events:
        if isinstance(event, TextDelta):
            last = before.get("text", "")
            before["text"] = event.text
            piece = event.text.removeprefix(last)
            if piece:
                out.append(TextDelta(piece, event.choice))
        else:
            out.append(event)
    return out


_OF_USAGE: dict[str, UsageQuirk] = {
    q.__name__: q for q in (thoughts_inside, reasoning_beside_output, cache_beside_input, usage_of_items)
}
_OF_FRAMES: dict[str, FrameQuirk] = {q.__name__: q for q in (text_so_far,)}


def of_usage(names: list[str]) -> list[UsageQuirk]:
    """The quirks of usage among these."""
    return [_OF_USAGE[name] for name in names if name in _OF_USAGE]


def of_frames(names: list[str]) -> list[FrameQuirk]:
    """The quirks of frames among these."""
    return [_OF_FRAMES[name] for name in names if name in _OF_FRAMES]


KNOWN = frozenset({*_OF_USAGE, *_OF_FRAMES})
