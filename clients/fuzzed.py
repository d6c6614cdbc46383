"""`schemathesis` against the control plane: whatever is sent to any endpoint, no answer is a fault of the server, and
none is one that the description does not name."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parent.parent
sys.path.insert(0, str(ROOT / "tests"))

from clients.installed import Client
from support.server import ADMIN, Server, config, environment
from support.upstream import Upstream

_RUN_S = 300
_CHECKS = "not_a_server_error,status_code_conformance,content_type_conformance,response_schema_conformance"


def _made(server: Server, path: str, given: dict[str, Any]) -> str:
    status, row = server.request("POST", path, given)
    assert status == 201, row
    return str(row["id"])


def clean(client: Client, folder: Path) -> str:
    """What it found nothing in, once with the ids of what there is, once with any; raises AssertionError with what it
    found."""
    python, *_ = client.command()
    found = []
    with Upstream() as upstream, Server(folder, config(upstream.base_url)) as server:
        own = {
            "providerType": "openai",
            "baseUrl": upstream.base_url,
            "authorizationKey": "sk-fuzzed-0123",
            "model": "m",
        }
        binding = {"scope": "action", "reference": "a", "provider": "up", "model": "m"}
        ids = {
            "provider_id": _made(server, "/api/providers", {"name": "fuzzed", **own}),
            "route_id": _made(server, "/api/routes", {"name": "fuzzed", "targets": ["up/m"]}),
            "binding_id": _made(server, "/api/bindings", binding),
            "key_id": _made(server, "/api/keys", {"name": "fuzzed"}),
            "price_id": _made(server, "/api/prices", {"model": "fuzzed", "input": 1, "output": 2}),
            "rate_id": _made(server, "/api/currency-rates", {"currency": "RUB", "usd": 0.0125}),
        }
        known = folder / "known.toml"
        known.write_text("[parameters]\n" + "".join(f'"path.{name}" = "{value}"\n' for name, value in ids.items()))
        command = [str(Path(python).parent / "schemathesis")]
        for more, at in ((["--config-file", str(known)], ["--exclude-method", "DELETE"]), ([], [])):
            done = subprocess.run(
                [*command, *more, "run", f"{server.url}/openapi.json", "--url", server.url,
                 "-H", f"Authorization: Bearer {ADMIN}", "--checks", _CHECKS, "--phases", "coverage,fuzzing",
                 "--max-examples", "50", "--seed", "1", *at],
                cwd=folder, env=environment(), capture_output=True, text=True, timeout=_RUN_S,
            )  # fmt: skip
            assert done.returncode == 0, done.stdout[-6000:] + done.stderr[-2000:]
            found += [line.strip() for line in done.stdout.splitlines() if "generated, " in line]
        # What it made of the registry is still one that serves.
        status, body = server.chat()
        assert status == 200, json.dumps(body)
    return f"{'; '.join(found)}; no answer that is none of the description's"
