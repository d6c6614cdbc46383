"""The load: so many connections that each ask again as soon as they are answered.

Every request's last message is like no other: it says the round and a number, which the provider puts into its answer.
An answer to another request and one that is not whole, or more than that, are counted as faults of the gateway.

Requests are sent as clients send them: of differing lengths, with a head as OpenAI's SDK for Python writes it, and by
every other connection the head before the body.
"""

from __future__ import annotations

import asyncio
import time

import httptools
import msgspec

from bench.upstream import REPLY, TEXTS, VECTOR

_DOTS = b"." * 64
# What that SDK says with every request, beside the key and the length; but that answers may be compressed, which some
# gateways would do.
_HEADERS = {
    "connection": "keep-alive",
    "accept": "application/json",
    "content-type": "application/json",
    "user-agent": "AsyncOpenAI/Python 3.52.0",
    "x-stainless-lang": "python",
    "x-stainless-package-version": "3.52.0",
    "x-stainless-os": "Linux",
    "x-stainless-arch": "x64",
    "x-stainless-runtime": "CPython",
    "x-stainless-runtime-version": "3.11.7",
    "x-stainless-async": "async:asyncio",
    "x-stainless-retry-count": "0",
    "x-stainless-read-timeout": "600",
}
_DONE = b"data: [DONE]\n\n"


class Job(msgspec.Struct, kw_only=True):
    """`calls` requests to `port`, from `connections` at a time; `prompt_bytes` makes the prompt longer: a
    system message that is the same in every request, or with `own_prompt` the last message, like no other. With
    `own_session` each request says in a header of which session it is, like no other."""

    port: int
    path: str
    model: str
    calls: int
    connections: int
    stream: bool = False
    prompt_bytes: int = 0
    own_prompt: bool = False
    own_session: bool = False
    headers: dict[str, str] = {}
    round: int = 0
    within_s: float = 120.0


class Seen(msgspec.Struct, kw_only=True):
    """What came of a job. Times are in milliseconds; `first_ms` is to the first text of a stream, and to the first byte
    of another answer's body. `failed` are those of the calls that were not answered well, or not in time; `answered`
    those that ended in any way; `in_time` is whether all did."""

    calls: int
    answered: int
    failed: int
    seconds: float
    p50_ms: float
    p99_ms: float
    first_p50_ms: float
    first_p99_ms: float
    first_failure: str | None = None
    in_time: bool = True


class _Message(msgspec.Struct, frozen=True):
    content: str | None = None


class _Choice(msgspec.Struct):
    message: _Message = _Message()
    delta: _Message = _Message()
    finish_reason: str | None = None


class _Usage(msgspec.Struct):
    total_tokens: int


class _Answer(msgspec.Struct):
    """What is looked at of an answer, or of a chunk of one."""

    id: str
    choices: list[_Choice]
    usage: _Usage | None = None


class _Vector(msgspec.Struct):
    embedding: list[float]


class _Vectors(msgspec.Struct):
    data: list[_Vector]


_answer = msgspec.json.Decoder(_Answer).decode
_chunks = msgspec.json.Decoder(list[_Answer]).decode
_vectors = msgspec.json.Decoder(_Vectors).decode


def _is_whole_stream(own: str, body: bytes) -> bool:
    """Whether these are all the chunks of the answer with this id, in order, as OpenAI frames them. Not every gateway
    hands on those that say nothing, nor the usage that nobody asked for."""
    if not body.endswith(_DONE):
        return False
    frames = body[: -len(_DONE)].removesuffix(b"\n\n").split(b"\n\n")
    if not all(frame.startswith(b"data: ") for frame in frames):
        return False
    chunks = _chunks(b"[%b]" % b",".join([frame[6:] for frame in frames]))
    choices = [choice for chunk in chunks for choice in chunk.choices]
    return (
        {chunk.id for chunk in chunks} == {own}
        and [choice.delta.content for choice in choices if choice.delta.content] == TEXTS
        and [choice.finish_reason for choice in choices if choice.finish_reason] == ["stop"]
        and sum(chunk.usage is not None for chunk in chunks) <= 1
    )


def body_of(job: Job, number: int) -> bytes:
    """The JSON of one request."""
    dots = "." * (number % len(_DOTS))
    said = f"round {job.round} request {number}:{dots} what does it cost to say this once more?"
    if job.path.endswith("/embeddings"):
        return msgspec.json.encode({"model": job.model, "input": said})
    system = "You are a careful assistant. Answer in one sentence."
    if job.prompt_bytes:
        text = "Section: the quick brown fox jumps over the lazy dog and writes it down. "
        text = " " + (text * (job.prompt_bytes // len(text) + 1))[: job.prompt_bytes]
        system, said = (system, said + text) if job.own_prompt else (system + text, said)
    body: dict[str, object] = {
        "model": job.model,
        "messages": [{"role": "system", "content": system}, {"role": "user", "content": said}],
        "temperature": 0.2,
    }
    if job.stream:
        body["stream"] = True
    return msgspec.json.encode(body)


class _Run:
    """A job under way."""

    def __init__(self, job: Job) -> None:
        self.job = job
        self.left = job.calls
        self.answered = 0
        self.failed = 0
        self.unanswered = 0
        self.first_failure: str | None = None
        self.whole_s: list[float] = []
        self.first_s: list[float] = []
        self.done = asyncio.get_running_loop().create_future()
        self.open: set[asyncio.Transport] = set()
        self.came: list[tuple[int, list[bytes], int]] = []
        marker = "REQUEST-NUMBER"
        template = body_of(job, 0).replace(b"request 0:", f"request {marker}:".encode())
        before, after = template.split(marker.encode() + b":")
        head = "".join(f"{k}: {v}\r\n" for k, v in {**_HEADERS, **job.headers}.items())
        self._head = f"POST {job.path} HTTP/1.1\r\nhost: 127.0.0.1\r\n{head}".encode()
        self._before, self._after = before, after

    def request(self) -> tuple[bytes, bytes]:
        """The next one's head and body; its number is that of those that are left."""
        self.left -= 1
        said = b"%d:%b" % (self.left, _DOTS[: self.left % len(_DOTS)])
        body = b"%b%b%b" % (self._before, said, self._after)
        session = b"x-bursar-session: s-%d-%d\r\n" % (self.job.round, self.left) if self.job.own_session else b""
        return b"%b%bcontent-length: %d\r\n\r\n" % (self._head, session, len(body)), body

    def wrong(self, status: int, body: bytes, number: int) -> str | None:
        """What is wrong with an answer to that request, if anything is."""
        if status != 200:
            return f"{status}: {body!r}"
        own = f"chatcmpl-{self.job.round:06d}{number:06d}"
        try:
            if self.job.path.endswith("/embeddings"):
                own = f"{self.job.round}{number:06d}"  # they have no id: the last number of the vector
                good = [one.embedding for one in _vectors(body).data] == [[*VECTOR, float(own)]]
            elif self.job.stream:
                good = _is_whole_stream(own, body)
            else:
                answer = _answer(body)
                said = [(choice.message.content, choice.finish_reason) for choice in answer.choices]
                good = answer.id == own and said == [(REPLY, "stop")] and answer.usage is not None
        except msgspec.MsgspecError:
            good = False
        return None if good else f"not the whole answer to this request, which is {own}: {body!r}"

    def ended(self) -> None:
        self.answered += 1
        if self.answered == self.job.calls and not self.done.done():
            self.done.set_result(None)

    def fault(self, why: str) -> None:
        self.failed += 1
        self.first_failure = self.first_failure or why[:500]


class _Connection(asyncio.Protocol):
    def __init__(self, run: _Run, *, apart: bool) -> None:
        self._run = run
        self._apart = apart  # whether the head leaves before the body does
        self._asked = False
        self._first_with = TEXTS[0].encode() + b'"' if run.job.stream else b""

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport: asyncio.Transport = transport  # type: ignore[assignment]
        self._run.open.add(self._transport)
        self._parser = httptools.HttpResponseParser(self)
        self._ask()

    def _ask(self) -> None:
        self._asked = self._run.left > 0
        if not self._asked:
            self._transport.close()
            return
        head, body = self._run.request()
        self._number = self._run.left
        self._first: float | None = None
        self._parts: list[bytes] = []
        self._began = time.perf_counter()
        if self._apart:
            self._transport.write(head)
            asyncio.get_running_loop().call_soon(self._transport.write, body)  # with the head it would be one packet
        else:
            self._transport.write(head + body)

    def data_received(self, data: bytes) -> None:
        self._parser.feed_data(data)

    def on_body(self, body: bytes) -> None:
        if self._first is None and self._first_with in body:
            self._first = time.perf_counter()
        self._parts.append(body)

    def on_message_complete(self) -> None:
        run, now = self._run, time.perf_counter()
        run.came.append((self._parser.get_status_code(), self._parts, self._number))
        run.whole_s.append(now - self._began)
        run.first_s.append((self._first or now) - self._began)
        keeps = self._parser.should_keep_alive()
        self._asked = False
        run.ended()
        if keeps:
            self._ask()
        else:
            self._transport.close()

    def connection_lost(self, _error: Exception | None) -> None:
        self._run.open.discard(self._transport)
        if self._asked:
            self._run.fault("the gateway closed the connection in the middle")
            self._run.ended()
        if self._run.left and not self._run.done.done():
            asyncio.ensure_future(_connect(self._run, apart=self._apart))  # noqa: RUF006


async def _connect(run: _Run, *, apart: bool) -> None:
    loop = asyncio.get_running_loop()
    try:
        await loop.create_connection(lambda: _Connection(run, apart=apart), "127.0.0.1", run.job.port)
    except OSError as e:
        # Nobody is there any more: what is left is not asked.
        for _ in range(run.left):
            run.fault(f"no connection: {e}")
            run.unanswered += 1
            run.ended()
        run.left = 0


async def perform(job: Job) -> Seen:
    """Runs a job to its end, or to its time limit."""
    run = _Run(job)
    began, in_time = time.perf_counter(), True
    await asyncio.gather(*(_connect(run, apart=n % 2 == 1) for n in range(min(job.connections, job.calls))))
    try:
        await asyncio.wait_for(run.done, job.within_s)
    except TimeoutError:
        in_time = False
        run.first_failure = run.first_failure or f"only {run.answered} answers within {job.within_s:g} s"
        run.failed += job.calls - run.answered
        run.left = 0  # nothing of it is asked beside what comes next
        for transport in run.open:
            transport.abort()
    seconds = time.perf_counter() - began
    for status, parts, number in run.came:  # while they come, the load is to be cheap
        why = run.wrong(status, b"".join(parts), number)
        if why is not None:
            run.fault(why)
    whole, first = sorted(run.whole_s), sorted(run.first_s)
    return Seen(
        calls=job.calls,
        answered=run.answered - run.unanswered,
        failed=run.failed,
        seconds=seconds,
        p50_ms=_percentile(whole, 0.5),
        p99_ms=_percentile(whole, 0.99),
        first_p50_ms=_percentile(first, 0.5),
        first_p99_ms=_percentile(first, 0.99),
        first_failure=run.first_failure,
        in_time=in_time,
    )


def _percentile(ordered: list[float], share: float) -> float:
    return ordered[min(len(ordered) - 1, int(share * len(ordered)))] * 1000 if ordered else 0.0
