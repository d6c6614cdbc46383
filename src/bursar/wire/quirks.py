"""What a few providers do otherwise than their format says: at most ten functions, each named by specs that need it.

A quirk of usage gets the usage object and the answer or frame it came in, and gives the object to be read; the object
as it was sent stays on the ledger. A quirk of frames gets a frame's events and what it kept of the frames before, and
gives the events there are.
"""

from __future__ import annotations

from collections.abc import Callable
from decimal import Decimal
from typing import Any

import msgspec

from bursar.types.events import Event, TextDelta, UsageReport

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


def own_key_cost(usage: Tree, _answer: Tree) -> Tree:
    """With a key of the caller's own the cost is the fee alone: what the vendor behind it takes stands beside it."""
    details = usage.get("cost_details")
    beside = details.get("upstream_inference_cost") if isinstance(details, dict) else None
    if usage.get("is_byok") is not True or type(beside) not in (int, float):
        return usage
    fee = usage.get("cost")
    return {**usage, "cost": str(Decimal(str(beside)) + (Decimal(str(fee)) if type(fee) in (int, float) else 0))}


def iterations_beside(usage: Tree, _answer: Tree) -> Tree:
    """What compacting a conversation took stands beside the counts, in iterations of its own."""
    rounds = usage.get("iterations")
    given = [one for one in rounds if isinstance(one, dict)] if isinstance(rounds, list) else []
    beside = [one for one in given if one.get("type") == "compaction"]
    if not beside:
        return usage
    names = ("input_tokens", "output_tokens", "cache_read_input_tokens", "cache_creation_input_tokens")
    more = {name: sum(_count(one.get(name)) for one in beside) for name in names}
    return {**usage, **{name: _count(usage.get(name)) + count for name, count in more.items() if count}}


def usage_of_items(usage: Tree, answer: Tree) -> Tree:
    """Each vector has a usage of its own."""
    items = answer.get("data")
    given = [item.get("usage") for item in items if isinstance(item, dict)] if isinstance(items, list) else []
    each = [one for one in given if isinstance(one, dict)]
    if usage or not each:
        return usage
    return {"prompt_tokens": sum(_count(one.get("prompt_tokens")) for one in each), "items": each}


def images_one_by_one(events: list[Event], before: dict[str, str]) -> list[Event]:
    """Each image that is done has its usage: what counts them is how many there were."""
    out: list[Event] = []
    for event in events:
        if isinstance(event, UsageReport):
            done = int(before.get("images", "0")) + 1
            before["images"] = str(done)
            out.append(UsageReport(msgspec.structs.replace(event.usage, images=done)))
        else:
            out.append(event)
    return out


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
    q.__name__: q
    for q in (
        thoughts_inside,
        reasoning_beside_output,
        cache_beside_input,
        usage_of_items,
        own_key_cost,
        iterations_beside,
    )
}
_OF_FRAMES: dict[str, FrameQuirk] = {q.__name__: q for q in (text_so_far, images_one_by_one)}


def of_usage(names: list[str]) -> list[UsageQuirk]:
    """The quirks of usage among these."""
    return [_OF_USAGE[name] for name in names if name in _OF_USAGE]


def of_frames(names: list[str]) -> list[FrameQuirk]:
    """The quirks of frames among these."""
    return [_OF_FRAMES[name] for name in names if name in _OF_FRAMES]


KNOWN = frozenset({*_OF_USAGE, *_OF_FRAMES})
