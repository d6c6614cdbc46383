"""What the server says of itself, for people and for machines."""

from __future__ import annotations

import io
import json
import logging
from collections.abc import Iterator
from datetime import datetime
from pathlib import Path

import pytest

from bursar.runtime.logs import Log


@pytest.fixture(autouse=True)
def _handlers() -> Iterator[None]:
    loggers = [logging.getLogger(name) for name in ("bursar", "uvicorn", "asyncio")]
    before = [(one.handlers, one.propagate, one.level) for one in loggers]
    yield
    for one, (handlers, propagates, level) in zip(loggers, before, strict=True):
        one.handlers, one.propagate = handlers, propagates
        one.setLevel(level)


def test_events_are_lines_for_people() -> None:
    out = io.StringIO()
    log = Log(as_json=False, stream=out)
    log.info("stopping", why="SIGTERM")
    log.warning("the store is away", error="no such\nfile", count=3, empty="")
    first, second = out.getvalue().splitlines()
    assert first.endswith(" [info] stopping why=SIGTERM")
    assert datetime.fromisoformat(first.split()[0]).tzinfo is not None
    assert second.partition(" [")[2] == r"warning] the store is away error='no such\nfile' count=3 empty=''"


def test_no_event_makes_a_line_of_its_own_or_is_lost() -> None:
    out = io.StringIO()
    Log(as_json=False, stream=out)
    logging.getLogger("asyncio").error(
        "Task exception was never retrieved\nfuture: \x1b[31m%s", "ä", extra={"values": [1]}
    )
    (line,) = out.getvalue().splitlines()
    assert line.endswith(r"[error] Task exception was never retrieved\nfuture: \x1b[31mä")


def test_values_named_as_a_line_s_own_fields_and_of_any_type_are_told() -> None:
    out = io.StringIO()
    Log(as_json=True, stream=out).info("said", level=1, message="two", path=Path("/x"), none=None)
    (line,) = map(json.loads, out.getvalue().splitlines())
    assert (line["level"], line["message"], line["path"], line["none"]) == ("info", "said", "/x", None)


def test_an_application_s_own_logging_stays_its_own() -> None:
    out = io.StringIO()
    root = logging.getLogger().handlers[:]
    Log(as_json=True, stream=out)
    assert logging.getLogger().handlers == root
    logging.getLogger("theirs").warning("theirs")
    assert out.getvalue() == ""


def test_events_are_objects_for_machines_and_so_is_what_libraries_warn_of() -> None:
    out = io.StringIO()
    log = Log(as_json=True, stream=out)
    log.error("a worker did not end", pid=7)
    try:
        raise ValueError("inside")
    except ValueError as error:
        logging.getLogger("uvicorn.error").error("a request failed inside", exc_info=error)
    logging.getLogger("uvicorn.error").info("nobody asked for this")
    first, second = map(json.loads, out.getvalue().splitlines())
    assert first.pop("timestamp").endswith("Z")
    assert first == {"level": "error", "message": "a worker did not end", "pid": 7}
    assert (second["level"], second["message"]) == ("error", "a request failed inside")
    assert second["exception"].startswith("Traceback")
    assert second["exception"].endswith("ValueError: inside")
