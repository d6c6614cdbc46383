"""What the server says of itself, for people and for machines."""

from __future__ import annotations

import io
import json
import logging
from collections.abc import Iterator
from datetime import datetime

import pytest

from bursar.runtime.logs import Log


@pytest.fixture(autouse=True)
def _handlers() -> Iterator[None]:
    root = logging.getLogger()
    before = root.handlers
    yield
    root.handlers = before


def test_events_are_lines_for_people() -> None:
    out = io.StringIO()
    log = Log(as_json=False, stream=out)
    log.info("stopping", why="SIGTERM")
    log.warning("the store is away", error="no such\nfile", count=3, empty="")
    first, second = out.getvalue().splitlines()
    assert first.endswith(" [info] stopping why=SIGTERM")
    assert datetime.fromisoformat(first.split()[0]).tzinfo is not None
    assert second.partition(" [")[2] == r"warning] the store is away error='no such\nfile' count=3 empty=''"


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
