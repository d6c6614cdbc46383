"""An answer's bytes into events, by a provider's spec: pure, with no clock and no socket.

`Decoder.feed(bytes)` gives frames with the events they carry, `close()` what is left at the end of the
bytes. A stream answered with plain JSON, and JSON answered as a stream, are told apart by their first byte.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import msgspec

from bursar.types.events import (
    Answered,
    Embedded,
    Event,
    Finish,
    ReasoningDelta,
    RefusalDelta,
    Started,
    TextDelta,
    UsageReport,
)
from bursar.types.usage import Usage
from bursar.wire.extras import Extras
from bursar.wire.framers import WRITTEN, chosen
from bursar.wire.framing import BytesFramer, Framer, RawFrame, WholeFramer
from bursar.wire.layouts import UNTYPED
from bursar.wire.readers import Reader, Readers
from bursar.wire.runs import Around, Told
from bursar.wire.shapes import Kept
from bursar.wire.typed import Typed
from bursar.wire.values import error_of, read_json, refuse_finish, text_of, thinking_of, tool_call

# How many frames are looked at for what they have in common before it is given up.
_LEARNS = 8


class Frame(msgspec.Struct, gc=False):
    """One frame of an answer: its exact bytes and what it says.

    `usage_only` marks a frame that has usage, and a list of choices that is empty. A comment or heartbeat has no
    events and `is_silent`.
    """

    raw: bytes
    events: list[Event]
    usage_only: bool = False
    is_silent: bool = False


class Decoder(msgspec.Struct, eq=False):
    """Reads one answer. `finished` tells whether it said that it ended; a stream that stops without
    saying so was cut off.

    `is_whole` is true where the answer is one JSON value rather than frames; `is_strict` is false where it was read
    though strict JSON would refuse it; `joined_text` is true where a text came as a list of parts, so that no one
    place holds it.
    """

    readers: Readers
    stream: bool
    ended: bool = False
    is_whole: bool = False
    is_strict: bool = True
    joined_text: bool = False
    _beside: Extras | None = None
    _kept: Kept | None = None
    _framer: Framer | None = None
    _said_end: bool = False
    _started: tuple[object, object] = (None, None)
    _usual: tuple[object, ...] | None = None
    _around: Around | None = None
    _guess: tuple[Told, tuple[object, ...]] | None = None
    _learns: int = 0
    _begun: frozenset[int] = frozenset()
    _finished: frozenset[int] = frozenset()

    @property
    def extras(self) -> dict[str, object]:
        """What frames say beside the answer itself (created, service_tier, …): the last value of each. Frames
        that bring a piece of text and no more are not asked."""
        return self._beside.all() if self._beside is not None else {}

    @property
    def _extras(self) -> Extras:
        self._beside = self._beside or Extras()
        return self._beside

    @property
    def _reader(self) -> Reader:
        return self.readers.answer if self.is_whole else self.readers.stream

    def comes_as(self, content_type: bytes) -> None:
        """Takes what an answer about sound or images says it is: events, sound, or one value."""
        if content_type.startswith(b"text/event-stream"):
            self.stream = True
        elif self.readers.is_sound and not content_type.startswith(WRITTEN):
            self.stream, self._framer = True, BytesFramer()
        else:
            self.stream = False

    @property
    def is_empty(self) -> bool:
        """Whether nothing came at all."""
        return self._framer is None or (type(self._framer) is BytesFramer and not self._framer.seen)

    @property
    def is_events(self) -> bool:
        """Whether it came as frames, rather than as sound or as one value."""
        return not (self.is_whole or type(self._framer) is BytesFramer)

    @property
    def saw_finish(self) -> bool:
        """Whether every answer that began (there may be several) said why it stopped."""
        return bool(self._finished) and self._begun <= self._finished

    @property
    def finished(self) -> bool:
        """Whether the answer said that it ended (or its format has no way to say so)."""
        if self.ended or self._said_end or self.saw_finish or not self.readers.says_ends:
            return True
        return type(self._framer) is BytesFramer

    def read_whole(self, data: bytes) -> Answered | None:
        """All of a plain answer, read at once; None where it is for `feed` and `close` to read."""
        readers = self.readers
        answered = readers.whole.read(data) if readers.whole is not None else None
        if answered is None or answered.finish in readers.failures:
            return None
        self.is_whole = self.ended = True
        return answered

    def feed(self, data: bytes) -> list[Frame]:
        """The frames that are whole now. Raises FrameTooLongError."""
        if self._framer is None:
            # Blank lines before a JSON body are a provider's way to keep the connection open.
            head = data.lstrip()
            if not head:
                return [Frame(data, [], is_silent=True)] if self.stream and data else []
            data = data if self.stream or self.readers.spec.media else head
            self._framer = chosen(self.readers.spec, head, stream=self.stream)
            self.is_whole = type(self._framer) is WholeFramer
            if self._framer.is_between and not self.is_whole and self._reader.typed is not None:
                self._learns = _LEARNS
        if self._learns or self._around is not None:
            return self._feed_runs(self._framer, data)
        raw_frames = self._framer.feed(data)
        return self._read_all(raw_frames) if raw_frames else []

    def _feed_runs(self, framer: Framer, data: bytes) -> list[Frame]:
        """The same where frames that differ in their text alone are read together; until it is known what they have in
        common, one after the other."""
        between = framer.is_between
        around = self._around
        if around is not None and between and not self.ended and (text := around.alone(data)) is not None:
            if self._guess is not None:
                self._confirm(*self._guess)
            return [Frame(data, [TextDelta(text)])]
        frames: list[Frame] = []
        at, size = 0, len(data)
        while at < size and not self.ended:
            around = self._around
            if around is not None and between and (run := around.take(data, at)) is not None:
                if self._guess is not None:
                    self._confirm(*self._guess)
                text, end = run
                frames.append(Frame(data[at:end], [TextDelta(text)]))
                at = end
                continue
            end = size
            if self._learns:
                self._learns -= 1
                end = data.find(b"\n\n", at) + 2
                if end > 1 and between and data.startswith(b"data: {", at):
                    first = data[at:end]
                    if first.find(b"\r") < 0 and first.find(b"\n") == len(first) - 2:
                        frames += self._read_all([RawFrame(first, first[6:-2])])
                        at = end
                        continue
                elif end < 2:
                    end = size
            if raw_frames := framer.feed(data[at:end]):
                frames += self._read_all(raw_frames)
            between = framer.is_between
            at = end
        return frames

    def _confirm(self, told: Told, usual: tuple[object, ...]) -> None:
        """The texts of this answer stand where those of the last one stood: its first text need not be decoded."""
        self._guess, self._usual, self._learns = None, usual, 0
        self._begun |= {0}
        self._extras.told(told)

    def _learn(self, raw: bytes, said: tuple[Any, ...], kind: Typed, root: object) -> None:
        """Looks at a frame for what it has in common with the next, if all it brought was a piece of text."""
        if said[1:] != kind.only_text or not said[0] or not isinstance(said[0], str):
            return
        self._guess = None
        self._around = kind.around(raw, said[0], root, self._usual, *self._started)
        if self._around is not None:
            self._learns = 0

    def close(self) -> list[Frame]:
        """The frames left when the bytes have ended."""
        if self._framer is None:
            return []
        frames = self._read_all(self._framer.close())
        if self.is_whole:
            self.ended = bool(frames) or self.ended
            return frames
        # What was cut off in the middle and says nothing is not an answer's frame.
        return [f for f in frames if not f.is_silent or f.raw[-1:] in b"\r\n"]

    def _read_all(self, raw_frames: list[RawFrame]) -> list[Frame]:
        kind = self._reader.typed
        frames: list[Frame] = []
        for frame in raw_frames:
            data = frame.data
            if kind is None or data is None or frame.event is not None or not data.startswith(b"{"):
                frames.append(self._read(frame))
            else:
                try:
                    try:
                        root = kind.decode(data)
                    except msgspec.ValidationError:
                        root = kind.decode_other(data)
                    named = kind.named(root)
                    choices = named[0]
                    if choices is not None and len(choices) == 1:
                        said = kind.said(choices[0])
                        if named[1:] == self._usual and said[1:] == kind.only_text and type(said[0]) is str:
                            # Most frames of most answers: one more piece of text, and nothing else.
                            frames.append(Frame(frame.raw, [TextDelta(said[0])] if said[0] else []))
                            if self._learns:
                                self._learn(frame.raw, said, kind, root)
                            continue
                        every = [said]
                    else:
                        every = list(map(kind.said, choices or ()))
                except UNTYPED:
                    choices = None
                if choices is None:
                    frames.append(self._read(frame))
                else:
                    if not self.is_whole:
                        self._extras.take(kind, root, data)
                    frames.append(self._of_typed(frame.raw, kind, named, every))
                    if self._learns and len(every) == len(frames[-1].events) == 1:
                        self._learn(frame.raw, every[0], kind, root)
            if self.ended:
                break
        return frames

    def _read(self, frame: RawFrame) -> Frame:
        if type(self._framer) is BytesFramer:
            return Frame(frame.raw, [])
        data = frame.data
        if data is None:
            bare = frame.raw.strip()
            if not bare.startswith((b"{", b"[")):
                return Frame(frame.raw, [], is_silent=True)
            data = bare  # some put an error into a stream as it stands, over several lines
        if self.readers.end_mark and data.startswith(self.readers.end_mark):
            self.ended = True
            return Frame(frame.raw, [])
        value, strict = read_json(data)
        self.is_strict = self.is_strict and strict
        if isinstance(value, list) and len(value) == 1:
            value = value[0]
        if not isinstance(value, dict):
            return Frame(frame.raw, [], is_silent=True)
        return self._of_value(frame, value)

    def _of_typed(self, raw: bytes, kind: Typed, named: tuple[Any, ...], said: list[tuple[Any, ...]]) -> Frame:
        choices, id, model, error, *usages = named
        events: list[Event] = []
        if (id, model) != self._started:
            self._started_as(id or None, model or None, events)
            if self._learns and (guess := kind.known.guess(*self._started)) is not None:
                self._around, told = guess
                self._guess = told, (id, model, *kind.nothing_else)
        if error:
            events.append(error_of(self._reader, error))
        for values in said:
            text, index, finish = values[:3]
            if values[3:] == kind.no_others and (text is None or type(text) is str) and type(index) is int:
                if text:
                    events.append(TextDelta(text, index))
                    self._begun |= {index}
                if finish is not None and finish != "":
                    self._finished |= {index}
                    events.append(Finish(str(finish), index))
                    refuse_finish(self.readers, events)
            else:
                self._content(kind.one_each(values), events)
        usage = self._reported(kind, usages) if usages != kind.no_usage else None
        if usage is not None:
            events.append(UsageReport(usage))
        if 0 in self._begun:
            # From here on, what a frame names when it only brings another piece of the first answer's text.
            self._usual = (id, model, *kind.nothing_else)
        return Frame(raw, events, usage_only=usage is not None and not error and choices == [])

    def _reported(self, kind: Typed, usages: list[Any]) -> Usage | None:
        usage = kind.usage(usages[0]) if kind.usage is not None else None
        return usage or self._usage_in(dict(zip(kind.usage_roots, usages, strict=True)))

    def _usage_in(self, value: dict[str, Any]) -> Usage | None:
        reader = self._reader.usage
        return reader.read(value, self._earlier.usage if reader.adds else None)

    @property
    def _earlier(self) -> Kept:
        self._kept = self._kept or Kept()
        return self._kept

    def _of_value(self, frame: RawFrame, value: dict[str, object]) -> Frame:
        reader = self._reader
        events: list[Event] = []
        self._extras.put_aside(frame.data or b"{}")
        self._started_as(reader.id(value) or None, reader.model(value) or None, events)
        error = reader.error(value)
        if error is None and "error" in (frame.event, value.get("object"), reader.said and value.get("type")):
            error = value
        if error is None and self.is_whole and self.readers.is_flat_error(value):
            error = value
        if error:
            events.append(error_of(reader, error))
        choices = reader.choices(value)
        if reader.said is not None:
            self._said(reader.said(value, frame.event, self._earlier.calls), events)
            self._content(reader.content(value), events)
        elif isinstance(choices, list) and len(choices) > 1 and reader.choices_name is not None:
            for one in choices:
                self._content(reader.content({**value, reader.choices_name: [one]}), events)
        else:
            self._content(reader.content(value), events)
        usage = self._usage_in(value)
        if usage is not None:
            events.append(UsageReport(usage))
        vectors = reader.vectors(value)
        if isinstance(vectors, list):
            name = reader.vector or ""
            alone = bool(vectors) and isinstance(vectors[0], int | float)  # the numbers of the only one
            each = [vectors] if alone else vectors
            events.append(Embedded([v.get(name) if isinstance(v, dict) else v for v in each]))
        if not self.is_whole:
            event = frame.event or value.get("type")
            ended = isinstance(event, str) and event in self.readers.end_events
            if self.readers.spec.stream.goes_on:
                self._said_end = self._said_end or ended
            else:
                self.ended = self.ended or ended or self.readers.done(value) is True
        refuse_finish(self.readers, events)
        for quirk in () if self.is_whole else self.readers.frame_quirks:
            events = quirk(events, self._earlier.texts)
        usage_only = usage is not None and not error and choices == []
        return Frame(frame.raw, events, usage_only=usage_only)

    def _started_as(self, id: object, model: object, events: list[Event]) -> None:
        named = (id or self._started[0], model or self._started[1])
        if named != self._started:
            self._started = named
            self._usual = self._around = self._guess = None
            events.append(Started(*[str(n) if n is not None else None for n in named]))

    def _place_of(self, call: object, choice: int) -> int:
        """The place of a call in its answer: what it says itself, or, of calls that come whole, the next."""
        given = call.get("index") if isinstance(call, dict) else None
        return given if type(given) is int else self._earlier.calls_of(choice).next()

    def _said(self, said: list[Event], events: list[Event]) -> None:
        """Takes the events of content that a shape has read."""
        for event in said:
            events.append(event)
            if isinstance(event, Finish):
                self._finished |= {event.choice}
            else:
                self.joined_text = self.joined_text or isinstance(event, TextDelta)
                self._begun |= {event.choice}  # type: ignore[union-attr]

    def _content(self, values: Sequence[Any], events: list[Event]) -> None:
        content, index, finish, reasoning, refusal, calls = values
        choice = index if isinstance(index, int) else 0
        before = len(events)
        if reasoning := text_of(reasoning) or thinking_of(content):
            events.append(ReasoningDelta(reasoning, choice))
        if text := text_of(content):
            self.joined_text = self.joined_text or isinstance(content, list)
            events.append(TextDelta(text, choice))
        if refusal := text_of(refusal):
            events.append(RefusalDelta(refusal, choice))
        if isinstance(calls, dict):
            calls = [{"function": calls}]  # one call, by OpenAI's older name
        if isinstance(calls, list):
            events.extend(tool_call(call, self._place_of(call, choice), choice) for call in calls)
        if len(events) > before:
            self._begun |= {choice}
        if finish is not None and finish != "" and not (type(finish) is str and finish in self.readers.no_ends):
            self._finished |= {choice}
            events.append(Finish(str(finish), choice))
