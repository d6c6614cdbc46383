"""A call, its context and its result: frozen values, handed from floor to floor."""

from __future__ import annotations

import msgspec

from bursar.types.usage import Usage

CHAT = "chat"
MESSAGES = "messages"
COMPLETIONS = "completions"
RESPONSES = "responses"
EMBEDDINGS = "embeddings"
COUNT_TOKENS = "count_tokens"
SPEECH = "speech"
TRANSCRIPTIONS = "transcriptions"
TRANSLATIONS = "translations"
IMAGES = "images"
IMAGE_EDITS = "image_edits"
IMAGE_VARIATIONS = "image_variations"
MODERATIONS = "moderations"
RERANK = "rerank"

OPERATIONS = (
    CHAT, MESSAGES, COMPLETIONS, RESPONSES, EMBEDDINGS, COUNT_TOKENS, SPEECH, TRANSCRIPTIONS, TRANSLATIONS, IMAGES,
    IMAGE_EDITS, IMAGE_VARIATIONS, MODERATIONS, RERANK,
)  # fmt: skip
"""All kinds of call."""

CHAT_COMPLETION = "chat_completion"
STREAM_COMPLETION = "stream_completion"
# The names of the other kinds of call on the ledger.
_METHOD_TYPES = {
    EMBEDDINGS: "embedding", COUNT_TOKENS: "count_tokens", SPEECH: "speech", TRANSCRIPTIONS: "transcription",
    TRANSLATIONS: "translation", IMAGES: "image_generation", IMAGE_EDITS: "image_edit",
    IMAGE_VARIATIONS: "image_variation", MODERATIONS: "moderation", RERANK: "rerank",
}  # fmt: skip


class Context(msgspec.Struct, frozen=True, kw_only=True):
    """Who asks and why. A plain value: pass it to any thread, task or process; it stays what it is.

    `purpose` is dotted (`chat.answer`, `rag.refine`); `function` is the application's own name for
    the place that asks; `request_id` is the application's id of the request it serves.
    """

    workspace: str = "default"
    user: str | None = None
    session: str | None = None
    turn: str | None = None
    request_id: str | None = None
    function: str | None = None
    purpose: str | None = None
    tags: dict[str, str] = {}


class Call(msgspec.Struct, frozen=True, gc=False):
    """What an application asks, before it is known who will answer.

    `inputs` are its messages or inputs, each as JSON, and `params` is all else of it, as one JSON object; `usual` is
    true for a chat of which these are all there is. Of any other, `body` is the request as it was sent, in the shape of
    its kind: OpenAI's for a chat, Anthropic's for messages. A request that came as a form, for it brings files, has its
    `content_type`; its inputs are then what there is to say of its files.
    `headers` are the caller's own extra headers for the provider. `action` and `skill` are what bindings look at where
    the model is left to them.
    """

    call_id: str
    operation: str
    model: str
    stream: bool
    inputs: list[bytes]
    params: bytes
    usual: bool
    body: bytes
    context: Context = Context()
    key_id: str | None = None
    idempotency_key: str | None = None
    client_retries: int | None = None
    headers: tuple[tuple[str, str], ...] = ()
    content_type: str | None = None
    action: str | None = None
    skill: str | None = None

    @property
    def method_type(self) -> str:
        """The name of this kind of call on the ledger."""
        if self.operation in _METHOD_TYPES:
            return _METHOD_TYPES[self.operation]
        return STREAM_COMPLETION if self.stream else CHAT_COMPLETION


class ToolCall(msgspec.Struct, frozen=True, kw_only=True):
    """A tool call of the answer; `arguments` is the JSON text as the model wrote it."""

    id: str | None
    name: str | None
    arguments: str


class SentRequest(msgspec.Struct, frozen=True, kw_only=True):
    """The request as it left for the provider: secrets in headers are masked."""

    url: str
    headers: dict[str, str]
    body: msgspec.Raw


class Cost(msgspec.Struct, frozen=True):
    """Exact money: `nanos` is in 10⁻⁹ of `currency`. `source` is `provider` or `price`;
    `price` names the dated price row that was used, and behind it the service tier where it was not the usual one.
    `usd_nanos` is the same in 10⁻⁹ US dollars, by `usd_rate` (dollars for one unit of the currency, and since when);
    None where no rate is known."""

    nanos: int
    currency: str
    source: str
    price: str | None = None
    usd_nanos: int | None = None
    usd_rate: str | None = None


class Result(msgspec.Struct, frozen=True, kw_only=True):
    """An answer with everything known about it, after its entry was settled.

    `raw` is the provider's answer as JSON (for a stream: the assembled object); `usage` and `cost`
    are final; `None` means nobody said.
    """

    call_id: str
    attempt: int
    provider: str
    model: str
    text: str | None
    finish_reason: str | None
    tool_calls: tuple[ToolCall, ...] = ()
    reasoning: str | None = None
    refusal: str | None = None
    usage: Usage | None = None
    usage_source: str = "none"
    cost: Cost | None = None
    vectors: list[object] | None = None
    raw: msgspec.Raw | None = None
    request: SentRequest | None = None
    response_time_ms: int = 0
    time_to_first_token_ms: int | None = None
