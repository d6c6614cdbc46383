"""`bursar serve`: prepares the store, binds the address, shows how to make the first call, and serves."""

from __future__ import annotations

import asyncio
import errno
import gc
import os
import socket
import sys
import time
from collections.abc import Mapping

import click

from bursar.cli import options
from bursar.gateway.registry import Registry
from bursar.http.auth import DEFAULT_WORKSPACE
from bursar.runtime import logs, room, settings
from bursar.runtime import serve as server
from bursar.runtime.registry import known
from bursar.runtime.supervisor import Supervisor
from bursar.types.errors import ConfigError

_BIND_WITHIN_S = 5.0
_SHOWN = 10


@click.command()
@options.config
@click.option("--host", default="127.0.0.1", help="The address to listen on.")
@click.option("--port", type=click.IntRange(0, 65535), default=8080, help="The port; 0 takes a free one.")
@click.option(
    "--workers",
    type=click.IntRange(1, 256),
    default=1,
    help="How many processes serve; beyond the cores there are they stand by.",
)
def serve(config_file: str | None, host: str, port: int, workers: int) -> None:
    """Start the gateway server."""
    gc.disable()  # until it serves, for the same reason as while it was loaded: a tenth of the start
    sys.exit(start(config_file, os.environ, host=host, port=port, workers=workers))


def start(config_file: str | None, environ: Mapping[str, str], *, host: str, port: int, workers: int) -> int:
    """Serves until told to stop; the exit status. Raises ConfigError, StoreError."""
    room.take_all()
    read = settings.load(config_file, environ)
    made_key, found = asyncio.run(_prepared(read, environ))
    sock = _bound(host, port)
    models = found.models(DEFAULT_WORKSPACE)
    names = [offer.name for offer in found.offers()]
    if len(names) > _SHOWN:
        names = [*names[:_SHOWN], f"{len(names) - _SHOWN} more"]
    _greet(host, sock.getsockname()[1], made_key, models[0][0] if models else "MODEL", names)
    if workers == 1:
        server.run(read, environ, sock)
        return 0
    gc.enable()
    log = logs.Log(as_json=read.server.json_logs)
    return Supervisor(read, config_file, environ, sock, workers, log).run()


async def _prepared(read: settings.Settings, environ: Mapping[str, str]) -> tuple[str | None, Registry]:
    """The admin's key, where one was made, and what there is to call."""
    found = await known(read, environ)
    return await server.first_start(read, environ), found


def _bound(host: str, port: int) -> socket.socket:
    """The address. Workers of a supervisor that was killed may hold it for a moment longer."""
    deadline = time.monotonic() + _BIND_WITHIN_S
    while True:
        try:
            sock = server.bind(host, port)
            sock.listen(2048)
            return sock
        except OSError as e:
            if e.errno != errno.EADDRINUSE or time.monotonic() > deadline:
                raise ConfigError(f"cannot listen on {host}:{port}: {e.strerror}; choose another with --port") from None
            time.sleep(0.1)


def _greet(host: str, port: int, made_key: str | None, model: str, providers: list[str]) -> None:
    shown_host = f"[{host}]" if ":" in host else host
    url = f"http://{shown_host}:{port}"
    key = made_key or "$BURSAR_ADMIN_KEY"
    in_python = f'"{made_key}"' if made_key else 'os.environ["BURSAR_ADMIN_KEY"]'
    print(f"bursar listens on {url} · providers: {', '.join(providers) or 'none'}")
    if made_key is not None:
        print(f"\nYour admin key, shown this once: {made_key}")
    print(
        f"""
Try it:

  curl {url}/v1/chat/completions \\
    -H "Authorization: Bearer {key}" -H "Content-Type: application/json" \\
    -d '{{"model": "{model}", "messages": [{{"role": "user", "content": "hello"}}]}}'

  {"" if made_key else "import os; "}from openai import OpenAI
  client = OpenAI(base_url="{url}/v1", api_key={in_python})
  print(client.chat.completions.create(model="{model}", messages=[{{"role": "user", "content": "hello"}}]))

Then look at the ledger:  bursar calls    bursar usage    bursar verify
""",
        flush=True,
    )
