"""`python -m clients.sdks`: every exchange of the corpus read by the SDK of its vendor, into `.clients/readings.json`.

Each recorded answer is replayed on a socket under an address of its own; the SDKs (installed under `.clients/sdks`)
make the calls. What they read is what the tests of the corpus hold the wire and the ledger to.
"""

from __future__ import annotations

import hashlib
import json
import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
sys.path.insert(0, str(ROOT / "tests"))

from clients.installed import Client
from support.corpus import CORPUS, FILES, READINGS, Read, body_of, is_stream, recorded
from support.server import environment
from support.upstream import Script, Seen, Upstream

_READ_S = 600
SDKS = Client("sdks", "read_with_sdks.py")


def _stamp() -> str:
    """What the readings depend on, as one word."""
    files = [*sorted(CORPUS.glob("*.jsonl")), SDKS.lock, ROOT / "clients" / SDKS.script]
    return hashlib.sha256(b"".join(hashlib.sha256(f.read_bytes()).digest() for f in files)).hexdigest()


def _read() -> dict[str, Read]:
    every = [(name, exchange) for name in FILES for exchange in recorded(name)]

    def replay(seen: Seen) -> Script:
        exchange = every[int(seen.path.split("/")[1])][1]
        answer = body_of(exchange).decode("latin-1")
        return Script(status=exchange["status"], raw=answer, content_type=exchange["content_type"])

    with Upstream() as upstream:
        upstream.on_request = replay
        root = upstream.base_url.removesuffix("/v1")
        asked = "".join(
            json.dumps({"url": f"{root}/{n}", "name": name, "stream": is_stream(exchange)}) + "\n"
            for n, (name, exchange) in enumerate(every)
        )
        made = subprocess.run(
            SDKS.command(), input=asked, capture_output=True, text=True, timeout=_READ_S, check=False, env=environment()
        )
    said = [json.loads(line) for line in made.stdout.splitlines()]
    if made.returncode or len(said) != len(every):
        raise RuntimeError(f"the SDKs read {len(said)} of {len(every)} exchanges:\n{made.stderr[-3000:]}")
    readings: dict[str, Read] = {}
    for (name, exchange), one in zip(every, said, strict=True):
        readings.setdefault(name, {})[exchange["id"]] = one
    return readings


def main() -> int:
    if not CORPUS.is_dir():
        print("skipped: no corpus: CORPUS_DIR names no folder")
        return 0
    stamp = _stamp()
    if not READINGS.exists() or json.loads(READINGS.read_text())["stamp"] != stamp:
        readings = _read()
        READINGS.write_text(json.dumps({"stamp": stamp, **readings}))
        print(f"{sum(map(len, readings.values()))} exchanges read by the SDKs of their vendors")
    return 0


if __name__ == "__main__":
    sys.exit(main())
