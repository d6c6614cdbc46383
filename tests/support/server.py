"""The server as its users run it: `bursar serve` in a process of its own, on a free port of loopback."""

from __future__ import annotations

import asyncio
import contextlib
import json
import os
import signal
import sqlite3
import subprocess
import sys
import tempfile
import time
import urllib.error
import urllib.request
import uuid
from concurrent.futures import ThreadPoolExecutor
from functools import cache
from pathlib import Path
from typing import Any

import msgspec

from bursar.store.engine import Database
from bursar.store.queries import Queries
from bursar.store.schema import prepare
from bursar.store.scope import Scope

# How often workers tell each other what waits, and a little more.
_WORD_S = 0.7
ADMIN = "bk-test-admin-key"
_GUARD = Path(__file__).parent / "guard"


def environment(**more: str) -> dict[str, str]:
    """The environment of a process of the tests: ours, with the guard, without keys that would leave."""
    kept = {k: v for k, v in os.environ.items() if not k.endswith("_API_KEY") and not k.startswith("BURSAR_")}
    return {**kept, "PYTHONPATH": str(_GUARD), **more}


def config(base_url: str, *, provider: str = "", ledger: str = "", more: str = "") -> str:
    """A configuration with one provider `up`."""
    return f"""
[store]
url = "sqlite:///data/bursar.db"
[ledger]
spool = "data/spool"
{ledger}
[[providers]]
name = "up"
type = "openai"
base_url = "{base_url}"
vendor = "openai"
api_key = "env:UP_KEY"
{provider}
{more}
"""


class Server:
    """A running server in a folder of its own."""

    def __init__(self, folder: Path, text: str, *, workers: int = 1, env: dict[str, str] | None = None) -> None:
        self.folder = folder
        self.workers = workers
        given = {"BURSAR_ADMIN_KEY": ADMIN, "UP_KEY": "sk-upstream-secret", "TMPDIR": str(folder), **(env or {})}
        self.env = environment(**given)
        self.port = 0
        self.process: subprocess.Popen[bytes] | None = None
        # Servers find a store at its newest schema: to make one takes a fifth of a start.
        self.is_prepared = True
        (folder / "bursar.toml").write_text(text)
        self.log = folder / "server.log"

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.port}"

    def start(self, port: int = 0) -> Server:
        command = [sys.executable, "-m", "bursar", "serve", "--config", "bursar.toml", "--port", str(port)]
        command += ["--workers", str(self.workers)]
        begins = self.log.stat().st_size if self.log.exists() else 0
        if self.is_prepared:
            _prepare(self.folder / "data" / "bursar.db")
        with self.log.open("ab") as out:
            self.process = subprocess.Popen(
                command, cwd=self.folder, env=self.env, stdout=out, stderr=out, start_new_session=True
            )
        self._read_port(begins)
        self.wait_healthy()
        return self

    def __enter__(self) -> Server:
        return self.start()

    def __exit__(self, *_: object) -> None:
        self.kill_group()

    def _read_port(self, begins: int) -> None:
        def told() -> bool:
            assert self.process is not None
            if self.process.poll() is not None:
                raise AssertionError(f"the server ended: {self.log.read_text()[begins:]}")
            text = self.log.read_bytes()[begins:].decode("utf-8", "replace")
            if "bursar listens on http://" in text:
                self.port = int(text.split("bursar listens on http://", 1)[1].split(" ", 1)[0].rsplit(":", 1)[1])
                return True
            return False

        wait_for(told, 20, "the server did not say where it listens")

    def wait_healthy(self, within_s: float = 20) -> None:
        wait_for(lambda: self.health()[0] == 200, within_s, "the server did not become healthy")

    def health(self) -> tuple[int, dict[str, Any]]:
        return self.get("/health")

    def get(self, path: str, key: str = ADMIN) -> tuple[int, Any]:
        return self.request("GET", path, None, key)

    def request(
        self, method: str, path: str, body: Any = None, key: str | None = ADMIN, headers: dict[str, str] | None = None
    ) -> tuple[int, Any]:
        status, data, _ = self.exchange(method, path, body, key, headers)
        try:
            return status, json.loads(data)
        except ValueError:
            return status, data.decode("utf-8", "replace")

    def exchange(
        self, method: str, path: str, body: Any = None, key: str | None = ADMIN, headers: dict[str, str] | None = None
    ) -> tuple[int, bytes, dict[str, str]]:
        sent = {"content-type": "application/json", **(headers or {})}
        if key is not None:
            sent["authorization"] = f"Bearer {key}"
        data = body if isinstance(body, bytes) or body is None else json.dumps(body).encode()
        request = urllib.request.Request(self.url + path, data, sent, method=method)
        try:
            with urllib.request.urlopen(request, timeout=30) as answer:
                return answer.status, answer.read(), {k.lower(): v for k, v in answer.headers.items()}
        except urllib.error.HTTPError as e:
            return e.code, e.read(), {k.lower(): v for k, v in e.headers.items()}
        except (urllib.error.URLError, ConnectionError, TimeoutError):
            return 0, b"", {}

    def chat(self, text: str = "hello", **more: Any) -> tuple[int, Any]:
        key, headers = more.pop("key", ADMIN), more.pop("headers", None)
        body = {"model": "up/gpt-4o-mini", "messages": [{"role": "user", "content": text}], **more}
        return self.request("POST", "/v1/chat/completions", body, key, headers)

    def stop(self) -> int:
        """SIGTERM, and the exit status."""
        assert self.process is not None
        self.process.send_signal(signal.SIGTERM)
        return self.process.wait(60)

    def kill(self) -> None:
        """SIGKILL to the process that was started, and to no other."""
        assert self.process is not None
        self.process.kill()
        self.process.wait(30)

    def kill_group(self) -> None:
        """SIGKILL to the supervisor and its workers."""
        assert self.process is not None
        with contextlib.suppress(ProcessLookupError):
            os.killpg(self.process.pid, signal.SIGKILL)
        self.process.wait(30)

    def worker_pids(self) -> list[int]:
        assert self.process is not None
        found = []
        for entry in Path("/proc").iterdir():
            if entry.name.isdigit():
                try:
                    fields = (entry / "stat").read_text().rsplit(")", 1)[1].split()
                except OSError:
                    continue
                if int(fields[1]) == self.process.pid and fields[0] != "Z":
                    found.append(int(entry.name))
        return found

    def bursar(self, *arguments: str) -> subprocess.CompletedProcess[str]:
        """The command line in this server's folder."""
        return subprocess.run(
            [sys.executable, "-m", "bursar", *arguments],
            cwd=self.folder, env=self.env, capture_output=True, text=True, timeout=120,
        )  # fmt: skip

    def entries(self, limit: int = 100_000) -> list[dict[str, Any]]:
        """The ledger, newest first, as `bursar calls --format json` gives it: without a process of its own, for it is
        asked often."""
        with ThreadPoolExecutor(1) as thread:  # there may be a loop in this one
            return thread.submit(asyncio.run, _entries(self.folder, limit)).result()

    def verify(self) -> tuple[bool, str]:
        out = self.bursar("verify", "--config", "bursar.toml")
        assert out.returncode in (0, 1), out.stderr
        return out.returncode == 0, out.stdout

    def drained(self, within_s: float = 30) -> None:
        """Waits until nothing waits in any spool and nothing is to be adopted."""

        empty_since: float | None = None

        def nothing_waits() -> bool:
            nonlocal empty_since
            status, state = self.health()
            good = status in (200, 503) and isinstance(state, dict)
            if not good or state["spool"]["records"] or state["spool"]["orphans"]:
                empty_since = None
                return False
            # One worker knows of itself; what it says of the others is as old as their last word.
            if empty_since is None:
                empty_since = time.monotonic()
            return state["workers"] == 1 or time.monotonic() - empty_since > _WORD_S

        wait_for(nothing_waits, within_s, "the spool was not drained")

    def settled(self, within_s: float = 30) -> list[dict[str, Any]]:
        """The entries, when none of them is open any more."""
        found: list[dict[str, Any]] = []

        def none_open() -> bool:
            nonlocal found
            self.drained(within_s)
            found = self.entries()
            return all(e["status"] != "started" for e in found)

        wait_for(none_open, within_s, "entries stay open")
        return found

    def database(self) -> sqlite3.Connection:
        connection = sqlite3.connect(self.folder / "data" / "bursar.db", timeout=10)
        connection.row_factory = sqlite3.Row
        return connection


@cache
def _new_store() -> bytes:
    """A store that nothing is in yet."""
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "bursar.db"
        with ThreadPoolExecutor(1) as thread:
            thread.submit(asyncio.run, _made(path)).result()
        return path.read_bytes()


async def _made(path: Path) -> None:
    database = Database(f"sqlite:///{path}")
    try:
        await prepare(database)
    finally:
        await database.close()


def _prepare(path: Path) -> None:
    """Puts a new store there, where there is none, with an id of its own."""
    if path.exists():
        return
    path.parent.mkdir(exist_ok=True)
    path.write_bytes(_new_store())
    with contextlib.closing(sqlite3.connect(path)) as c, c:
        c.execute("update ledger_meta set value = ? where name = 'store_id'", (str(uuid.uuid4()),))


async def _entries(folder: Path, limit: int) -> list[dict[str, Any]]:
    database = Database(f"sqlite:///{folder / 'data' / 'bursar.db'}")
    rows: list[dict[str, object]] = []
    cursor: str | None = None
    try:
        while len(rows) < limit:  # no read holds the drain up for longer than a page
            page, cursor = await Queries(database).calls(Scope(), {}, limit=min(500, limit - len(rows)), cursor=cursor)
            rows += page
            if cursor is None:
                break
    finally:
        await database.close()
    return json.loads(msgspec.json.Encoder(decimal_format="number").encode(rows))


def wait_for(condition: Any, within_s: float, failure: str) -> None:
    """Waits for something another process does; the pause only keeps the waiting cheap."""
    deadline = time.monotonic() + within_s
    while not condition():
        if time.monotonic() > deadline:
            raise AssertionError(failure)
        time.sleep(0.02)
