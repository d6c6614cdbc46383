"""`python -m clients [NAME…]`: installs each client under `.clients/`, lets it make its calls, and compares.

A client's script prints one JSON object a call, `{"input", "output", "text"}`, in the order it made them.
"""

from __future__ import annotations

import json
import subprocess
import sys
import tempfile
from collections.abc import Callable
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
sys.path.insert(0, str(ROOT / "tests"))

from clients import comply, fuzzed, giga, in_process, mocked
from clients.installed import Client, MissingError, NodeClient
from support.server import ADMIN, Server, config, environment
from support.upstream import Upstream

MODEL = "up/gpt-4o-mini"
_CALLS_S = 180


def metered(client: Client, folder: Path) -> str:
    """What came of its calls, each compared with the ledger. Raises AssertionError where one does not agree."""
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
            return f"{len(said)} calls, each as on the ledger"
        finally:
            server.kill_group()


def judged(client: Client, folder: Path) -> str:
    """What a judge of answers says of the server's, beside what it says of the provider's own."""
    python, *_ = client.command()
    ways = comply.compare([str(Path(python).parent / client.script)], folder)
    return f"{ways} ways through the server pass as directly"


CLIENTS: tuple[tuple[Client, Callable[[Client, Path], str]], ...] = (
    (Client("openai", "use_openai.py"), metered),
    (Client("anthropic", "use_anthropic.py"), metered),
    (Client("langchain-openai", "use_langchain.py"), metered),
    (Client("llm", "use_llm.py"), metered),
    (Client("litellm", "use_litellm.py"), metered),
    (Client("in-process", "run_litellm.py"), in_process.metered),
    (NodeClient("ai", "use_ai.mjs"), metered),
    (Client("llm-comply", "llm-comply"), judged),
    (Client("gigachat", "read_gigachat.py"), giga.agreed),
    (Client("schemathesis", "schemathesis"), fuzzed.clean),
    (NodeClient("aimock", "serve.mjs"), mocked.settled),
)


def main() -> int:
    wanted = set(sys.argv[1:])
    failed = 0
    for client, seen in CLIENTS:
        if wanted and client.name not in wanted:
            continue
        try:
            with tempfile.TemporaryDirectory(prefix="bursar-client-") as folder:
                print(f"{client.name}: {seen(client, Path(folder))}", flush=True)
        except MissingError as e:
            print(f"{client.name}: skipped: {e}", flush=True)
        except (AssertionError, RuntimeError, subprocess.TimeoutExpired) as e:
            failed += 1
            print(f"{client.name}: {e}", file=sys.stderr, flush=True)
    return 1 if failed else 0


if __name__ == "__main__":
    sys.exit(main())
