"""Fixtures for all tests: no network beyond loopback, a provider, a server, a client."""

from __future__ import annotations

import os
import runpy
import signal
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

sys.path.insert(0, str(Path(__file__).parent))
# The guard against the network, in this process too.
runpy.run_path(str(Path(__file__).parent / "support" / "guard" / "sitecustomize.py"))

from support.server import Server, config
from support.upstream import Upstream

# Where tests are started behind the back of a shell they ignore what a terminal says, and so would all they start.
for _name, _usual in ((signal.SIGINT, signal.default_int_handler), (signal.SIGHUP, signal.SIG_DFL)):
    if signal.getsignal(_name) is signal.SIG_IGN:
        signal.signal(_name, _usual)


def pytest_xdist_auto_num_workers() -> int:
    """One more than there are cores: many tests wait for a server to start, or to say what it did."""
    cores = len(os.sched_getaffinity(0)) if sys.platform == "linux" else os.cpu_count() or 1
    return cores + 1


@pytest.fixture(autouse=True)
def _clean_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    """No key and no configuration of the machine reaches a test."""
    for name in list(os.environ):
        if name.endswith("_API_KEY") or name.startswith("BURSAR_"):
            monkeypatch.delenv(name)


@pytest.fixture
def upstream() -> Iterator[Upstream]:
    with Upstream() as running:
        yield running


@pytest.fixture
def make_server(tmp_path: Path, upstream: Upstream) -> Iterator[Callable[..., Server]]:
    """Starts a server whose provider `up` is the upstream; ended with the test."""
    started: list[Server] = []

    def make(
        *, provider: str = "", ledger: str = "", more: str = "", workers: int = 1, start: bool = True, **env: str
    ) -> Server:
        folder = tmp_path / f"server{len(started)}"
        folder.mkdir()
        text = config(upstream.base_url, provider=provider, ledger=ledger, more=more)
        server = Server(folder, text, workers=workers, env=env)
        started.append(server)
        return server.start() if start else server

    yield make
    for server in started:
        if server.process is not None:
            server.kill_group()


@pytest.fixture
def server(make_server: Callable[..., Server]) -> Server:
    return make_server()


@pytest.fixture
def settings(tmp_path: Path, upstream: Upstream) -> dict[str, Any]:
    """The configuration of an in-process client whose provider `up` is the upstream."""
    return {
        "store": {"url": f"sqlite:///{tmp_path}/data/bursar.db"},
        "ledger": {"spool": f"{tmp_path}/data/spool"},
        "providers": [
            {
                "name": "up",
                "type": "openai",
                "base_url": upstream.base_url,
                "vendor": "openai",
                "api_key": "sk-planted-secret",
            }
        ],
    }
