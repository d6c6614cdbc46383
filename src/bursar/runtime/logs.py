"""What the server says on its standard error: one line a provider's response, and what happens to itself."""

from __future__ import annotations

import sys
from typing import Any, TextIO

import structlog

from bursar.ledger.records import Opened, Settled

_MOST_ALARMS = 1000


def logger(*, as_json: bool, stream: TextIO | None = None) -> Any:
    """A structlog logger for people, or with `as_json` for machines."""
    out = stream or sys.stderr
    last = structlog.processors.JSONRenderer() if as_json else structlog.dev.ConsoleRenderer(colors=out.isatty())
    return structlog.wrap_logger(
        structlog.PrintLogger(out),
        processors=[
            structlog.processors.add_log_level,
            structlog.processors.TimeStamper(fmt="iso", utc=True),
            structlog.processors.EventRenamer("message") if as_json else _same,
            last,
        ],
    )


def _same(_logger: object, _name: str, event: Any) -> Any:
    return event


class ResponseLog:
    """An observer of settled entries that writes their line."""

    def __init__(self, *, as_json: bool, stream: TextIO | None = None) -> None:
        self._stream = stream or sys.stderr
        self._log = logger(as_json=True, stream=self._stream) if as_json else None
        self._unpriced: set[tuple[str, str]] = set()

    def observe(self, opened: Opened, settled: Settled) -> None:
        """Writes `[llm] provider=… response status=… model=… duration_ms=… tokens=… call_id=…`."""
        self._alarm(opened, settled)
        status = settled.http_status if settled.http_status is not None else settled.status
        if self._log is not None:
            self._log.info(
                "[llm] response",
                provider=opened.provider,
                status=status,
                model=opened.model,
                duration_ms=settled.response_time_ms,
                tokens=settled.total_tokens,
                call_id=opened.call_id,
                outcome=settled.status,
            )
            return
        outcome = "" if settled.status == "completed" else f" outcome={settled.status}"
        self._stream.write(
            f"[llm] provider={opened.provider} response status={status} model={_one_word(opened.model)} "
            f"duration_ms={settled.response_time_ms} tokens={_or_dash(settled.total_tokens)} "
            f"call_id={opened.call_id}{outcome}\n"
        )

    def _alarm(self, opened: Opened, settled: Settled) -> None:
        """Says once of a model that its tokens have no price: its cost is null, not nothing."""
        who = (opened.provider, opened.model)
        unpriced = settled.usage_source != "none" and settled.cost_nanos is None
        if unpriced and who not in self._unpriced and len(self._unpriced) < _MOST_ALARMS:
            self._unpriced.add(who)
            if self._log is not None:
                self._log.warning("no price is known: cost is null", provider=who[0], model=who[1])
            else:
                self._stream.write(f"[llm] no price is known for {who[0]}/{_one_word(who[1])}: its cost is null\n")


def _or_dash(value: object) -> object:
    return "-" if value is None else value


def _one_word(name: str) -> str:
    """A model's name as one field of a line: a client may have written anything into it."""
    return "".join(c if c.isprintable() and c != " " else "_" for c in name[:200]) or "-"
