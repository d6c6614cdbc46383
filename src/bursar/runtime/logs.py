"""What the server says on its standard error: one line a provider's response, and what happens to itself."""

from __future__ import annotations

import logging
import sys
from collections.abc import Sequence
from contextlib import suppress
from datetime import UTC, datetime
from typing import TextIO

from bursar.ledger.ledger import Ended
from bursar.ledger.records import Opened, Settled
from bursar.wire.assemble import encode_json

_MOST_ALARMS = 1000
_WORD_CHARS = 200
_VALUES = "bursar_values"
_Key = tuple[str, str, int | None, str]


class Log:
    """What happens to the server, an event with its values a line: for people, or for machines as JSON. What the HTTP
    server and asyncio warn of is written the same way; all other logging is the application's own."""

    def __init__(self, *, as_json: bool, stream: TextIO | None = None) -> None:
        handler = logging.StreamHandler(stream or sys.stderr)
        handler.setFormatter(_Lines(as_json=as_json))
        for name in ("bursar", "uvicorn", "asyncio"):
            logger = logging.getLogger(name)
            logger.handlers, logger.propagate = [handler], False
        self._logger = logging.getLogger("bursar")
        self._logger.setLevel(logging.INFO)

    def info(self, event: str, **values: object) -> None:
        self._logger.info(event, extra={_VALUES: values})

    def warning(self, event: str, **values: object) -> None:
        self._logger.warning(event, extra={_VALUES: values})

    def error(self, event: str, **values: object) -> None:
        self._logger.error(event, extra={_VALUES: values})


class _Lines(logging.Formatter):
    def __init__(self, *, as_json: bool) -> None:
        super().__init__()
        self._as_json = as_json

    def format(self, record: logging.LogRecord) -> str:
        level, event = record.levelname.lower(), record.getMessage()
        values: dict[str, object] = getattr(record, _VALUES, {})
        fault = self.formatException(record.exc_info) if record.exc_info else None
        if self._as_json:
            known = {name: v if isinstance(v, int | float | None) else str(v) for name, v in values.items()}
            if fault is not None:
                known["exception"] = fault
            return _json_line(**{**known, "level": level, "message": event}).rstrip("\n")
        said = [
            f"{_now()} [{level}] {_one_line(event)}",
            *(f"{name}={_shown(value)}" for name, value in values.items()),
        ]
        return " ".join(said) + (f"\n{fault}" if fault is not None else "")


def _one_line(text: str) -> str:
    return text if text.isprintable() else "".join(c if c.isprintable() else repr(c)[1:-1] for c in text)


def _shown(value: object) -> str:
    """A value in a line for people: in quotes where it would not stand out as one."""
    text = str(value)
    return text if text.isprintable() and text and " " not in text else repr(text)


class ResponseLog:
    """An observer of settled entries that writes their line."""

    def __init__(self, *, as_json: bool, stream: TextIO | None = None) -> None:
        self._stream = stream or sys.stderr
        self._json = as_json
        self._said: dict[_Key, tuple[str, str]] = {}
        self._unpriced: set[tuple[str, str]] = set()

    def observe(self, ended: Sequence[Ended]) -> None:
        """Writes `[llm] provider=… response status=… model=… duration_ms=… tokens=… call_id=…` of each."""
        lines: list[str] = []
        write = self._as_json if self._json else self._as_text
        for opened, settled in ended:
            if settled.cost_nanos is None and settled.usage_source != "none":
                who = (opened.provider, opened.model)
                if who not in self._unpriced:
                    self._alarm(who, lines)
            lines.append(write(opened, settled))
        with suppress(OSError, ValueError):  # nobody reads it any more; the ledger has it all the same
            self._stream.write("".join(lines))
            self._stream.flush()

    def _as_text(self, opened: Opened, settled: Settled) -> str:
        key = (opened.provider, opened.model, settled.http_status, settled.status)
        begins, ends = self._said.get(key) or self._say(key)
        tokens = "-" if settled.total_tokens is None else settled.total_tokens
        return f"{begins}{settled.response_time_ms} tokens={tokens} call_id={opened.call_id}{ends}"

    def _as_json(self, opened: Opened, settled: Settled) -> str:
        return _json_line(
            level="info",
            message="[llm] response",
            provider=opened.provider,
            status=settled.http_status if settled.http_status is not None else settled.status,
            model=opened.model,
            duration_ms=settled.response_time_ms,
            tokens=settled.total_tokens,
            call_id=opened.call_id,
            outcome=settled.status,
        )

    def _say(self, key: _Key) -> tuple[str, str]:
        """How the line of such an end begins, up to its duration, and how it ends."""
        provider, model, http_status, status = key
        shown = http_status if http_status is not None else status
        begins = f"[llm] provider={provider} response status={shown} model={_one_word(model)} duration_ms="
        said = begins, "\n" if status == "completed" else f" outcome={status}\n"
        if len(model) <= _WORD_CHARS:
            if len(self._said) >= _MOST_ALARMS:
                self._said.clear()
            self._said[key] = said
        return said

    def _alarm(self, who: tuple[str, str], lines: list[str]) -> None:
        """Says once of a model that its tokens have no price: its cost is null, not nothing."""
        if len(self._unpriced) >= _MOST_ALARMS:
            return
        self._unpriced.add(who)
        if self._json:
            line = _json_line(level="warning", message="no price is known: cost is null", provider=who[0], model=who[1])
        else:
            line = f"[llm] no price is known for {who[0]}/{_one_word(who[1])}: its cost is null\n"
        lines.append(line)


def _json_line(**values: object) -> str:
    return encode_json({**values, "timestamp": _now()}).decode() + "\n"


def _now() -> str:
    return datetime.now(UTC).isoformat(timespec="microseconds").replace("+00:00", "Z")


def _one_word(name: str) -> str:
    """A model's name as one field of a line: a client may have written anything into it."""
    if name.isprintable() and " " not in name and 0 < len(name) <= _WORD_CHARS:
        return name
    return "".join(c if c.isprintable() and c != " " else "_" for c in name[:_WORD_CHARS]) or "-"
