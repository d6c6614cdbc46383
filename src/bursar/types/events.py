"""What an answer says, in the order it says it. One event type a meaning; every vendor's answer becomes these."""

from __future__ import annotations

from typing import TYPE_CHECKING

import msgspec

from bursar.types.usage import Usage

if TYPE_CHECKING:
    from bursar.types.call import Result


class Started(msgspec.Struct, frozen=True, gc=False):
    """The provider named its answer: its id and the model that serves it (either may be None)."""

    id: str | None
    model: str | None


class TextDelta(msgspec.Struct, frozen=True, gc=False):
    """A piece of the answer's text; `choice` is its index where several answers were asked for."""

    text: str
    choice: int = 0


class ReasoningDelta(msgspec.Struct, frozen=True):
    """A piece of the model's visible reasoning."""

    text: str
    choice: int = 0


class RefusalDelta(msgspec.Struct, frozen=True):
    """A piece of a refusal, where the provider tells it apart from text."""

    text: str
    choice: int = 0


class ToolCallDelta(msgspec.Struct, frozen=True):
    """A piece of a tool call: `arguments` of one `index` are concatenated; id and name come once."""

    index: int
    id: str | None
    name: str | None
    arguments: str
    choice: int = 0


class Finish(msgspec.Struct, frozen=True, gc=False):
    """Why the model stopped, in the provider's word (stop, length, tool_calls, …)."""

    reason: str
    choice: int = 0


class UsageReport(msgspec.Struct, frozen=True, gc=False):
    """What the provider reports of usage at this point; later reports replace earlier ones field by field."""

    usage: Usage


class Embedded(msgspec.Struct, frozen=True):
    """The vectors of an embeddings answer, in the order of the inputs; floats or base64 text as asked for."""

    vectors: list[object]


class ErrorReport(msgspec.Struct, frozen=True):
    """An error inside the answer, whatever the HTTP status said."""

    message: str
    type: str | None = None
    code: str | None = None


class Answered(msgspec.Struct, frozen=True, gc=False):
    """A whole answer that is one text and no more, said at once: to a call that was not asked for as a stream."""

    id: str | None
    model: str | None
    text: str
    finish: str | None
    usage: Usage | None


class Completed(msgspec.Struct, frozen=True):
    """The last event of a stream that went well: the settled result, with usage, cost and call id."""

    result: Result


Event = (
    Started
    | TextDelta
    | ReasoningDelta
    | RefusalDelta
    | ToolCallDelta
    | Finish
    | UsageReport
    | Embedded
    | ErrorReport
    | Completed
)
