"""Clients from PyPI and npm, each in an environment of its own under `.clients/`, from its lock."""

from __future__ import annotations

import shutil
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
CACHE = ROOT / ".clients"
_INSTALL_S = 240


class MissingError(Exception):
    """What a client needs is not on this machine; the text says what."""


@dataclass(frozen=True)
class Client:
    """One client: the lock of what it is installed from, and the script that uses it."""

    name: str
    script: str

    @property
    def lock(self) -> Path:
        return ROOT / "requirements" / "clients" / f"{self.name}.txt"

    def command(self) -> list[str]:
        """What runs it, once it is installed."""
        lock, home = self.lock, CACHE / self.name
        stamp = home / "installed"
        if not stamp.exists() or stamp.read_bytes() != lock.read_bytes():
            shutil.rmtree(home, ignore_errors=True)
            _install([sys.executable, "-m", "venv", str(home)])
            pip = [str(home / "bin" / "pip"), "install", "--quiet", "--disable-pip-version-check"]
            _install([*pip, "--require-hashes", "-r", str(lock)])
            stamp.write_bytes(lock.read_bytes())
        return [str(home / "bin" / "python"), str(ROOT / "clients" / self.script)]


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
