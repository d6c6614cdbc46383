"""`python -m clients [NAME…]`: installs each client under `.clients/`, lets it make its calls, and compares.

A client's script prints one JSON object a call, `{"input", "output", "text"}`, in the order it made them.
"""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
import tempfile
from dataclasses import dataclass
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
sys.path.insert(0, str(ROOT / "tests"))

from clients import comply
from support.server import ADMIN, Server, config, environment
from support.upstream import Upstream

CACHE = ROOT / ".clients"
MODEL = "up/gpt-4o-mini"
_INSTALL_S, _CALLS_S = 240, 180


class MissingError(Exception):
    """What a client needs is not on this machine; the text says what."""


@dataclass(frozen=True)
class Client:
    """One client: the lock of what it is installed from, and the script that uses it."""

    name: str
    script: str

    def command(self) -> list[str]:
        """What runs it, once it is installed."""
        lock = ROOT / "requirements" / "clients" / f"{self.name}.txt"
        home = CACHE / self.name
        stamp = home / "installed"
        if not stamp.exists() or stamp.read_bytes() != lock.read_bytes():
            shutil.rmtree(home, ignore_errors=True)
            _install([sys.executable, "-m", "venv", str(home)])
            pip = [str(home / "bin" / "pip"), "install", "--quiet", "--disable-pip-version-check"]
            _install([*pip, "--require-hashes", "-r", str(lock)])
            stamp.write_bytes(lock.read_bytes())
        return [str(home / "bin" / "python"), str(ROOT / "clients" / self.script)]

    def seen(self, folder: Path) -> str:
        """What came of its calls. Raises AssertionError where it is not what the ledger says."""
        return f"{_compare(self, folder)} calls, each as on the ledger"


@dataclass(frozen=True)
class NodeClient(Client):
    """One that runs on Node."""

    def command(self) -> list[str]:
        npm, node = shutil.which("npm"), shutil.which("node")
        if npm is None or node is None:
            raise MissingError("there is no Node here")
        source, home = ROOT / "clients" / self.name, CACHE / self.name
        stamp = home / "installed"
        lock = (source / "package-lock.json").read_bytes()
        home.mkdir(parents=True, exist_ok=True)
        for file in source.iterdir():
            shutil.copy(file, home)
        if not stamp.exists() or stamp.read_bytes() != lock:
            # A registry that does not answer is asked again rather than waited for.
            patience = [
                "--prefer-offline",
                "--fetch-timeout=20000",
                "--fetch-retries=4",
                "--fetch-retry-maxtimeout=10000",
            ]
            _install([npm, "ci", "--silent", "--no-audit", "--no-fund", *patience, "--prefix", str(home)])
            stamp.write_bytes(lock)
        return [node, str(home / self.script)]


@dataclass(frozen=True)
class Judge(Client):
    """A program that judges answers itself: what it says of the server's is compared with what it says of the
    provider's own."""

    def seen(self, folder: Path) -> str:
        python, *_ = self.command()
        ways = comply.compare([str(Path(python).parent / self.script)], folder)
        return f"{ways} ways through the server pass as directly"


CLIENTS: tuple[Client, ...] = (
    Client("openai", "use_openai.py"),
    Client("anthropic", "use_anthropic.py"),
    Client("langchain-openai", "use_langchain.py"),
    Client("llm", "use_llm.py"),
    Client("litellm", "use_litellm.py"),
    NodeClient("ai", "use_ai.mjs"),
    Judge("llm-comply", "llm-comply"),
)


def _install(command: list[str]) -> None:
    """Runs an installer, and once more where it fails: networks do. Raises RuntimeError with what it said."""
    said = ""
    for _ in range(2):
        try:
            made = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=_INSTALL_S, check=False)
        except subprocess.TimeoutExpired:
            said = f"it took longer than {_INSTALL_S} s"
            continue
        if not made.returncode:
            return
        said = (made.stdout + made.stderr)[-2000:]
    raise RuntimeError(f"{' '.join(command)} failed:\n{said}")


def _compare(client: Client, folder: Path) -> int:
    """The number of calls of this client that agree with the ledger. Raises AssertionError where one does not."""
    command = client.command()
    with Upstream() as upstream:
        server = Server(folder, config(upstream.base_url)).start()
        try:
            env = environment(URL=server.url, KEY=ADMIN, MODEL=MODEL)
            made = subprocess.run(
                command, cwd=folder, env=env, capture_output=True, text=True, timeout=_CALLS_S, check=False
            )
            assert made.returncode == 0, f"{client.name} failed:\n{made.stderr[-3000:]}"
            said = [json.loads(line) for line in made.stdout.splitlines() if line.startswith("{")]
            entries = sorted(server.settled(), key=lambda entry: (entry["created_at"], entry["call_id"]))
            assert len(entries) == len(said) > 0, f"{client.name} made {len(said)} calls, the ledger has {len(entries)}"
            for n, (one, entry, seen) in enumerate(zip(said, entries, upstream.seen, strict=True), 1):
                place = f"{client.name}, call {n}"
                counts = entry["prompt_tokens"], entry["completion_tokens"]
                assert (one["input"], one["output"]) == counts, f"{place}: it says {one}, the ledger {counts}"
                assert f"answer {seen.number}" in one["text"], f"{place}: {one['text']!r}"
                assert entry["status"] == "completed", place
            green, report = server.verify()
            assert green, report
            return len(said)
        finally:
            server.kill_group()


def main() -> int:
    wanted = set(sys.argv[1:])
    failed = 0
    for client in CLIENTS:
        if wanted and client.name not in wanted:
            continue
        try:
            with tempfile.TemporaryDirectory(prefix="bursar-client-") as folder:
                print(f"{client.name}: {client.seen(Path(folder))}", flush=True)
        except MissingError as e:
            print(f"{client.name}: skipped: {e}", flush=True)
        except (AssertionError, RuntimeError, subprocess.TimeoutExpired) as e:
            failed += 1
            print(f"{client.name}: {e}", file=sys.stderr, flush=True)
    return 1 if failed else 0


if __name__ == "__main__":
    sys.exit(main())
