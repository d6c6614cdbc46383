"""Runs the README's commands as they stand there, in a copy of the tree with an empty environment.

Blocks marked ```sh are run with bash and ```python with the environment the README made; a command that
serves goes on in the background while the ones behind it run. `make test` is left to the run around this one.
"""

from __future__ import annotations

import os
import re
import shutil
import signal
import subprocess
import sys
import tempfile
import time
import urllib.request
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
LEFT_OUT = ("make test",)
_BLOCK = re.compile(r"^```(sh|python)\n(.*?)^```$", re.MULTILINE | re.DOTALL)
ENV = {"PATH": os.environ["PATH"], "HOME": os.environ.get("HOME", "/"), "LANG": "C.UTF-8"}
KEY = re.compile(r"shown this once: (\S+)")


def main() -> None:
    with tempfile.TemporaryDirectory() as made:
        folder = Path(made) / "bursar"
        files = subprocess.check_output(["git", "ls-files"], cwd=ROOT, text=True).splitlines()
        for name in files:
            (folder / name).parent.mkdir(parents=True, exist_ok=True)
            shutil.copy2(ROOT / name, folder / name)
        run_all(_BLOCK.findall((ROOT / "README.md").read_text("utf-8")), folder)


def run_all(blocks: list[tuple[str, str]], folder: Path) -> None:
    server: subprocess.Popen[bytes] | None = None
    env = dict(ENV)
    try:
        for kind, text in blocks:
            if kind == "python":
                run([".venv/bin/python", "-c", text], folder, env)
                continue
            for command in commands(text):
                if command in LEFT_OUT:
                    continue
                if command == "make run":
                    server, key = serve(command, folder, env)
                    env["BURSAR_ADMIN_KEY"] = key
                else:
                    run(["bash", "-euo", "pipefail", "-c", command], folder, env)
    finally:
        if server is not None:
            os.killpg(server.pid, signal.SIGTERM)
            server.wait(60)


def commands(text: str) -> list[str]:
    """The commands of a block: one a line, continued by a backslash; comments behind them are left off."""
    joined = text.replace("\\\n", " ")
    return [re.sub(r"\s+# .*$", "", line).strip() for line in joined.splitlines() if line.strip() and line[0] != "#"]


def serve(command: str, folder: Path, env: dict[str, str]) -> tuple[subprocess.Popen[bytes], str]:
    print(f"$ {command} &", flush=True)
    log = folder / "readme-serve.log"
    with log.open("wb") as out:
        server = subprocess.Popen(
            ["bash", "-c", command], cwd=folder, env=env, stdout=out, stderr=out, start_new_session=True
        )
    deadline = time.monotonic() + 300
    while time.monotonic() < deadline and server.poll() is None:
        found = KEY.search(log.read_text("utf-8", "replace"))
        if found and healthy():
            return server, found.group(1)
        time.sleep(0.2)
    sys.exit(f"the README's `{command}` did not serve:\n{log.read_text('utf-8', 'replace')}")


def healthy() -> bool:
    try:
        with urllib.request.urlopen("http://127.0.0.1:8080/health", timeout=2) as answer:
            return bool(answer.status == 200)
    except OSError:
        return False


def run(command: list[str], folder: Path, env: dict[str, str]) -> None:
    print(f"$ {command[-1].strip()}", flush=True)
    done = subprocess.run(command, cwd=folder, env=env, timeout=600)
    if done.returncode != 0:
        sys.exit(f"a command of the README failed with {done.returncode}: {command[-1]}")


if __name__ == "__main__":
    main()
