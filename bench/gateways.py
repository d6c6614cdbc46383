"""The gateways under measurement: how each is installed, started, asked, and left."""

from __future__ import annotations

import json
import os
import re
import shutil
import sqlite3
import subprocess
import sys
import time
import urllib.error
import urllib.request
from collections.abc import Callable
from contextlib import closing
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from bench import registry
from bench.processes import GATEWAY_CORE, LOAD_CORE, Group, free_port, wait_for

ROOT = Path(__file__).resolve().parent.parent
CACHE = ROOT / ".bench"
LITELLM = "litellm[proxy]==1.106.2"
PORTKEY = "1.15.2"
# With later ones it cannot write into the heads of streams and embeddings, and fails them all.
_NODE_SERVER = "1.13.8"
MODELS = ("chat", "stream-chat", "stream-chat-5ms", "embed")
KEY = "sk-benchmark-key"  # checked by bursar and LiteLLM; Portkey and the limit check none
_INSTALL_S = 900
_LOOK_S = 0.25
_GAP = re.compile(r'^bursar_event_loop_gap_seconds_bucket\{le="(.+?)"\} (\S+)$', re.MULTILINE)

Told = Callable[[str], None]


class PeerMissingError(Exception):
    """A peer cannot be installed or started here; its text says why."""


@dataclass
class Running:
    """A gateway that answers: where, with which headers, and whose processes are counted."""

    name: str
    port: int
    headers: dict[str, str]
    group: Group | None
    prefix: str = ""
    base: str = "/v1"
    folder: Path | None = None
    cold_start_s: float | None = None
    calls: int = 0
    failed: int = 0
    drains: bool = False
    log: Path | None = None

    def model(self, name: str) -> str:
        return self.prefix + name

    def health(self) -> dict[str, Any]:
        with urllib.request.urlopen(f"http://127.0.0.1:{self.port}/health", timeout=10) as answer:
            return dict(json.load(answer))

    def gaps(self) -> dict[float, float]:
        """How many times its loop was busy with one thing up to so many seconds, since its start."""
        with urllib.request.urlopen(f"http://127.0.0.1:{self.port}/metrics", timeout=10) as answer:
            found = _GAP.findall(answer.read().decode())
        return {float(bound): float(count) for bound, count in found}

    def drained(self) -> None:
        """Waits until nothing waits for the store any more: what that costs belongs to the calls."""
        if not self.drains:
            return

        # The store is asked, not the gateway: one of several workers knows of the others what they told it last.
        wait_for(lambda: self.rows("<> 'started'") >= self.calls, 120, "the spool was not drained", every_s=_LOOK_S)

    def rows(self, status: str) -> int:
        """How many entries of such a status the store has."""
        assert self.folder is not None
        sql = f"select count(*) from ledger_entries where status {status}"
        with closing(sqlite3.connect(self.folder / "data" / "bursar.db", timeout=30)) as connection:
            return int(connection.execute(sql).fetchone()[0])

    def said(self) -> str | None:
        """The last line of its log that speaks of an error."""
        if self.log is None or not self.log.exists():
            return None
        lines = self.log.read_text("utf-8", "replace")[-16_384:].splitlines()
        return next((line.strip()[:160] for line in reversed(lines) if "error" in line.lower()), None)

    def stop(self) -> None:
        if self.group is not None:
            self.group.stop()


@dataclass
class Gateway:
    """What is known of a gateway before it runs."""

    name: str
    start: Callable[[Path, int, int], Running]
    install: Callable[[Told], None] = field(default=lambda _told: None)
    version: Callable[[], str] = field(default=lambda: "")
    prepare: Callable[[Path, int], None] = field(default=lambda _folder, _upstream: None)


def start(gateway: Gateway, folder: Path, upstream: int) -> Running:
    """Starts a gateway in a folder of its own, and waits for its first 200; how long that took is kept.

    Raises PeerMissingError with the end of its log where it does not come.
    """
    folder.mkdir(parents=True)
    gateway.prepare(folder, upstream)
    began = time.perf_counter()
    running = gateway.start(folder, free_port(), upstream)
    running.log = folder / "log"
    try:
        wait_for(lambda: _answers(running), 90, f"{gateway.name} did not answer", every_s=0.005)
    except BaseException as e:
        running.stop()
        if not isinstance(e, (TimeoutError, PeerMissingError)):
            raise
        log = folder / "log"
        tail = log.read_text("utf-8", "replace")[-600:] if log.exists() else ""
        raise PeerMissingError(f"{gateway.name}: {e}\n{tail}") from e
    if running.group is not None and running.group.is_ours:  # another was there already
        running.cold_start_s = time.perf_counter() - began
    running.calls += 1
    return running


def _answers(running: Running) -> bool:
    if running.group is not None and running.group.ended:
        raise PeerMissingError("it ended while it was starting")
    body = json.dumps({"model": running.model("chat"), "messages": [{"role": "user", "content": "first"}]}).encode()
    request = urllib.request.Request(
        f"http://127.0.0.1:{running.port}{running.base}/chat/completions",
        body,
        {"content-type": "application/json", **running.headers},
    )
    try:
        with urllib.request.urlopen(request, timeout=30) as answer:
            return bool(answer.status == 200)
    except (urllib.error.URLError, ConnectionError, TimeoutError):
        return False


def direct() -> Gateway:
    """No gateway: the provider itself."""
    return Gateway("direct", lambda _folder, _port, upstream: Running("direct", upstream, {}, None))


def limit() -> Gateway:
    """The bare pass-through."""

    def begin(folder: Path, port: int, upstream: int) -> Running:
        command = [sys.executable, "-m", "bench.limit", str(port), str(upstream)]
        return Running("limit", port, {}, Group.start(command, cwd=ROOT, log=folder / "log"))

    return Gateway("limit", begin)


_PRICE = '[[prices]]\nmodel = "chat"\ninput = 1\noutput = 2\n'


def bursar(workers: int = 1, *, priced: bool = False, spread: bool = False) -> Gateway:
    """bursar as it is shipped: ledger on, a line in the log for every answer; `priced` where the model has a price,
    `spread` where it has the load's core too."""
    name = "bursar, priced" if priced else "bursar" if workers == 1 else f"bursar ×{workers}"
    cores = (GATEWAY_CORE, LOAD_CORE) if spread else (GATEWAY_CORE,)
    if spread:
        name += ", spread"

    def begin(folder: Path, port: int, upstream: int) -> Running:
        config = folder / "bursar.toml"
        config.write_text(
            f'[[providers]]\nname = "up"\ntype = "openai"\nbase_url = "http://127.0.0.1:{upstream}/v1"\napi_key = "x"\n'
            + (_PRICE if priced else "")
        )
        command = [sys.executable, "-m", "bursar", "serve", "--config", str(config), "--port", str(port)]
        group = Group.start(
            [*command, "--workers", str(workers)],
            cores=cores, cwd=folder, log=folder / "log", env={"BURSAR_ADMIN_KEY": KEY},
        )  # fmt: skip
        headers = {"authorization": f"Bearer {KEY}"}
        return Running(name, port, headers, group, prefix="up/", folder=folder, drains=True)

    return Gateway(name, begin, version=lambda: __import__("bursar").__version__)


def full() -> Gateway:
    """bursar with a large registry in its store, called by the way of one of its providers."""

    name = "bursar, full registry"

    def prepare(folder: Path, upstream: int) -> None:
        (folder / "data").mkdir()
        registry.fill(folder / "data" / "bursar.db", f"http://127.0.0.1:{upstream}/v1")

    def begin(folder: Path, port: int, upstream: int) -> Running:
        running = bursar().start(folder, port, upstream)
        running.name, running.prefix = name, f"{registry.ONE}/"
        return running

    return Gateway(name, begin, version=bursar().version, prepare=prepare)


def litellm() -> Gateway:
    """LiteLLM's proxy, one worker, with nothing logged and no database."""
    venv = CACHE / "litellm"

    def install(told: Told) -> None:
        if (venv / ".installed").exists() and (venv / ".installed").read_text() == LITELLM:
            return
        told(f"installing {LITELLM}")
        _run([sys.executable, "-m", "venv", str(venv)])
        _run([str(venv / "bin" / "pip"), "install", "--quiet", "--disable-pip-version-check", LITELLM])
        (venv / ".installed").write_text(LITELLM)

    def begin(folder: Path, port: int, upstream: int) -> Running:
        base = f"http://127.0.0.1:{upstream}/v1"
        models = [
            {"model_name": m, "litellm_params": {"model": f"openai/{m}", "api_base": base, "api_key": "x"}}
            for m in MODELS
        ]
        config = {
            "model_list": models,
            "litellm_settings": {"callbacks": [], "success_callback": [], "failure_callback": [], "num_retries": 0},
            "general_settings": {"disable_spend_logs": True, "master_key": KEY},
        }
        (folder / "config.yaml").write_text(json.dumps(config))  # JSON is YAML
        command = [str(venv / "bin" / "litellm"), "--config", str(folder / "config.yaml"), "--port", str(port)]
        env = {
            "LITELLM_LOG": "ERROR", "LITELLM_MODE": "PRODUCTION", "LITELLM_LOCAL_MODEL_COST_MAP": "True",
            "LITELLM_LOCAL_ANTHROPIC_BETA_HEADERS": "True", "NO_DOCS": "True", "NO_PROXY": "127.0.0.1",
        }  # fmt: skip
        group = Group.start(
            [*command, "--host", "127.0.0.1", "--num_workers", "1", "--telemetry", "False"],
            cwd=folder, log=folder / "log", env=env,
        )  # fmt: skip
        return Running("litellm", port, {"authorization": f"Bearer {KEY}"}, group)

    return Gateway("litellm", begin, install, lambda: LITELLM.partition("==")[2])


def portkey() -> Gateway:
    """Portkey's open gateway on Node."""
    folder = CACHE / "portkey"

    def install(told: Told) -> None:
        if shutil.which("node") is None or shutil.which("npm") is None:
            raise PeerMissingError("portkey: there is no Node on this machine")
        package = {
            "private": True,
            "dependencies": {"@portkey-ai/gateway": PORTKEY},
            "overrides": {"@hono/node-server": _NODE_SERVER},
        }
        wanted = json.dumps(package)
        if (folder / ".installed").exists() and (folder / ".installed").read_text() == wanted:
            return
        told(f"installing @portkey-ai/gateway {PORTKEY}")
        shutil.rmtree(folder, ignore_errors=True)  # npm holds on to what another package.json had asked for
        folder.mkdir(parents=True)
        (folder / "package.json").write_text(wanted)
        _run(["npm", "install", "--prefix", str(folder), "--no-audit", "--no-fund", "--silent"])
        (folder / ".installed").write_text(wanted)

    def begin(run: Path, port: int, upstream: int) -> Running:
        script = folder / "node_modules" / "@portkey-ai" / "gateway" / "build" / "start-server.js"
        command = ["node", str(script), f"--port={port}", "--headless"]
        group = Group.start(command, cwd=run, log=run / "log", env={"NODE_ENV": "production"})
        headers = {
            "authorization": "Bearer x",
            "x-portkey-provider": "openai",
            "x-portkey-custom-host": f"http://127.0.0.1:{upstream}/v1",
        }
        return Running("portkey", port, headers, group)

    return Gateway("portkey", begin, install, lambda: f"{PORTKEY} (node-server {_NODE_SERVER})")


def named(text: str) -> Gateway:
    """A gateway that is listening already: `NAME=URL[,pid=PID][,header=K:V][,model=PREFIX]`.

    Without its process id its processor time and memory are not known. A header's value cannot have a comma.
    """
    name, _, rest = text.partition("=")
    url, *options = rest.split(",")
    if not name or "://" not in url:
        raise ValueError(f"'{text}' is not NAME=URL[,pid=PID][,header=K:V]")
    if not re.fullmatch(r"\w[\w. -]*", name):
        raise ValueError(f"'{name}' is no name for a row of a table: take letters, digits, dots and dashes")
    if name in ("direct", "limit", "bursar", "litellm", "portkey"):
        raise ValueError(f"'{name}' is the name of a series of the benchmark's own: give the peer another")
    if not url.startswith("http://"):
        raise ValueError(f"'{url}' is not plain HTTP, which alone the benchmark speaks")
    host, _, path = url.partition("://")[2].partition("/")
    host, _, port = host.partition(":")
    if host not in ("127.0.0.1", "localhost"):
        raise ValueError(f"'{url}' is not on this machine: only http://127.0.0.1:PORT/… is measured")
    if not (port.isdecimal() and port.isascii() and 0 < int(port) < 65536):
        raise ValueError(f"'{url}' does not say the port: http://127.0.0.1:PORT/…")
    headers: dict[str, str] = {}
    running = Running(name, int(port), headers, None, base="/" + path.strip("/") if path else "/v1")
    for option in options:
        key, _, value = option.partition("=")
        if key == "pid":
            if not (value.isdecimal() and value.isascii()) or Group(int(value)).ended:
                raise ValueError(f"'{value}' is not the id of a process that runs here")
            running.group = Group(int(value))
        elif key == "header":
            headers.update(_header(value))
        elif key == "model":
            running.prefix = value
        else:
            raise ValueError(f"'{option}' of the peer {name} is none of pid=, header=, model=")
    return Gateway(name, lambda _folder, _port, _upstream: running)


def _header(text: str) -> dict[str, str]:
    name, colon, value = text.partition(":")
    if not (colon and name.strip()):
        raise ValueError(f"'{text}' is no header: header=NAME:VALUE")
    return {name.strip(): value.strip()}


def _run(command: list[str]) -> None:
    try:
        done = subprocess.run(
            command, capture_output=True, text=True, timeout=_INSTALL_S, check=False, env={**os.environ, "CI": "true"}
        )
    except (OSError, subprocess.TimeoutExpired) as e:
        raise PeerMissingError(f"{command[0]}: {e}") from e
    if done.returncode != 0:
        raise PeerMissingError(f"{' '.join(command[:3])} failed: {(done.stderr or done.stdout)[-400:]}")
