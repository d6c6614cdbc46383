"""The provider type `litellm`, with the library itself, in front of a provider on loopback: what it answers, what it
was asked, and what the ledger says of it.
"""

from __future__ import annotations

import json
import os
import sqlite3
import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
sys.path.insert(0, str(ROOT / "tests"))

from clients.installed import Client
from support.server import environment
from support.upstream import Upstream

_CALLS_S = 180


def metered(client: Client, folder: Path) -> str:
    """What came of it. Raises AssertionError where a call is not on the ledger as it was."""
    command = client.command()
    with Upstream() as upstream:
        guard = environment()["PYTHONPATH"]
        env = environment(
            URL=upstream.base_url, UP_KEY="sk-upstream-secret", PYTHONPATH=f"{guard}{os.pathsep}{ROOT / 'src'}"
        )
        made = subprocess.run(
            command, cwd=folder, env=env, capture_output=True, text=True, timeout=_CALLS_S, check=False
        )
        assert made.returncode == 0, f"{client.name} failed:\n{made.stderr[-3000:]}"
        said = [json.loads(line) for line in made.stdout.splitlines() if line.startswith("{")]
        rows = _rows(folder)
        good, failed = [s for s in said if "call" in s], [s for s in said if "failed" in s]
        assert (len(good), len(failed)) == (4, 3), said
        for one in good:
            (row,) = [r for r in rows if (r["call_id"], r["attempt"]) == (one["call"], one["attempt"])]
            assert (row["status"], row["prompt_tokens"], row["completion_tokens"]) == (
                "completed", one["input"], one["output"]), (one, row)  # fmt: skip
            assert (row["cost_nanos"], row["price_id"]) == (one["cost"], one["price"]), (one, row)
            assert one["price"] is not None, one
        assert len(rows) == 8, [(r["status"], r["error_kind"]) for r in rows]
        assert len(upstream.seen) == 7, "the library tried again by itself"
        assert [s["failed"] for s in failed] == ["auth", "upstream_error", "server"], failed
        assert not any("sk-upstream-secret" in str(value) for row in rows for value in row.values())
        assert all(seen.headers["authorization"] == "Bearer sk-upstream-secret" for seen in upstream.seen)
        verified = subprocess.run(
            [command[0], "-m", "bursar", "verify"],
            cwd=folder,
            env=env,
            capture_output=True,
            text=True,
            timeout=60,
            check=False,
        )
        assert verified.returncode == 0, verified.stdout + verified.stderr
        return f"{len(good)} calls and {len(failed)} failures, each attempt on the ledger"


def _rows(folder: Path) -> list[dict[str, object]]:
    with sqlite3.connect(folder / "data" / "bursar.db") as c:
        c.row_factory = sqlite3.Row
        return [dict(row) for row in c.execute("select * from llm_call_logs order by created_at, attempt")]
