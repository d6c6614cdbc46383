"""One process of the server: the core, the keys it knows, and uvicorn in front.

On SIGTERM it stops being ready, lets streams finish within a bound, cancels the rest, and leaves when every
entry is settled and, if the store takes it, drained.
"""

from __future__ import annotations

import asyncio
import gc
import os
import signal
import socket
import sys
import uuid
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from functools import partial
from typing import Any

import msgspec
import uvicorn

import bursar
from bursar.http.app import App
from bursar.http.asgi import Asgi, Later
from bursar.http.auth import ADMIN, KeyRing, key_row, new_key, principals_of
from bursar.http.cycle import lines_of
from bursar.http.metrics import Metrics
from bursar.http.protocol import Protocol
from bursar.http.tally import Tallies
from bursar.ledger.ledger import now_us
from bursar.ledger.rows import timestamp
from bursar.ledger.status import Overview
from bursar.runtime import logs, secrets
from bursar.runtime.core import Core, running
from bursar.runtime.follow import Told, follow
from bursar.runtime.room import Room
from bursar.runtime.settings import Settings, bytes_of
from bursar.runtime.standby import Accepted, Standby
from bursar.store.engine import Database
from bursar.store.keys import KeyStore
from bursar.store.schema import prepare

_SWITCH_S = 0.0005
KEYS = "keys"
_COLLECT = (10_000, 50, 1_000)
_ENV_KEY_ID = "environment"


async def first_start(settings: Settings, environ: Mapping[str, str]) -> str | None:
    """Brings the store to its newest schema and sees to it that there is an admin.

    `BURSAR_ADMIN_KEY` is made the admin's key where it is set. Returns a key that was made, to be shown
    once; None where there was one already, or it came from the environment.
    """
    ring = secrets.key_ring(settings)
    database = Database(settings.store.url)
    try:
        await prepare(database)
        store = KeyStore(database)
        given = environ.get("BURSAR_ADMIN_KEY") or None
        if given is None and await store.has_admin():
            return None
        key = given or new_key()
        await store.put_named(
            key_row(
                ring,
                key,
                id=_ENV_KEY_ID if given else str(uuid.uuid4()),
                name="BURSAR_ADMIN_KEY" if given else "first admin",
                role=ADMIN,
                workspace=None,
                user=None,
                acts_for_users=True,
                now=timestamp(now_us()),
            )
        )
        return None if given else key
    finally:
        await database.close()


class _Keys:
    """Keeps the ring as the store has it: looked at each second, and at once in the process that changed it."""

    def __init__(self, ring: KeyRing, store: KeyStore, told: Callable[[str, int], None]) -> None:
        self.ring = ring
        self.store = store
        self._told = told
        self._version: str | None = None

    async def reload(self) -> None:
        version = await self.store.version()
        # Of ten thousand keys this takes a while, in which the loop has other things to do.
        self.ring.replace(await asyncio.to_thread(principals_of, await self.store.all()))
        self._version = version
        self._told(KEYS, int(version))

    async def look(self) -> None:
        """Reads them where they changed. Raises StoreError where they cannot be read now."""
        if await self.store.version() != self._version:
            await self.reload()


class _Server(uvicorn.Server):
    """uvicorn, but signals are ours, for it would end the process by the signal it caught; it waits for its end
    rather than looking for it ten times a second; and it may stand by."""

    def __init__(self, config: uvicorn.Config, stands_by_for: Accepted | None) -> None:
        """`stands_by_for` is what others have accepted, where this one is to stand by."""
        super().__init__(config)
        self._told = asyncio.Event()
        self._by_others = stands_by_for

    async def startup(self, sockets: list[socket.socket] | None = None) -> None:
        if self._by_others is None:
            await super().startup(sockets)
            return
        made: Callable[..., asyncio.Protocol] = self.config.http_protocol_class
        protocol = partial(made, config=self.config, server_state=self.server_state, app_state={})
        # What uvicorn asks of its servers is to be closed.
        self.servers = [Standby(sock, protocol, self._by_others) for sock in sockets or ()]  # type: ignore[misc]
        self.started = True

    def stop(self) -> None:
        """Ends `serve` when the calls under way have ended, or their time is up."""
        self.should_exit = True
        self._told.set()

    async def main_loop(self) -> None:
        await self._told.wait()

    @contextmanager
    def capture_signals(self) -> Iterator[None]:
        yield


class Supervised(msgspec.Struct, frozen=True, kw_only=True):
    """What a worker gets from its supervisor: a pipe that ends with it, the folder of all workers' tallies, and whether
    it takes only the connections that the others leave waiting."""

    pipe: int
    tallies: str
    stands_by: bool


async def serve(
    settings: Settings,
    environ: Mapping[str, str],
    sock: socket.socket,
    supervised: Supervised | None = None,
) -> None:
    """Serves on a bound socket until SIGTERM, SIGINT, or, as a worker, until the supervisor is gone."""
    log = logs.Log(as_json=settings.server.json_logs)
    responses = logs.ResponseLog(as_json=settings.server.json_logs)
    cores: list[Core] = []

    def overview() -> Overview:
        return cores[0].overview()

    tallies = Tallies(supervised.tallies if supervised is not None else None)
    told = _teller(log)
    async with running(
        settings,
        environ,
        observers=(tallies.observe, responses.observe),
        chores=(tallies.publish, Room(told).look),
        told=told,
    ) as core:
        cores.append(core)
        _stage(core)
        core.ledger.begin()
        keys = _Keys(secrets.key_ring(settings), KeyStore(core.database), core.follows)
        await keys.reload()
        app = _app(settings, core, keys, Metrics(tallies, overview), overview)
        # What was loaded until here stays: the collector need not look at it again and again, nor now for the megabyte
        # of it that nobody needs any more.
        gc.freeze()
        gc.set_threshold(*_COLLECT)
        gc.enable()
        core.gap.start(tallies.gap)
        await _serve_until_told(app, settings, keys, core, sock, log, supervised)


def _stage(core: Core) -> None:
    """What a turn of the loop has to say to the ledger is written in one piece, before anything of it leaves."""
    loop = asyncio.get_running_loop()
    core.turns.before_leaving = core.ledger.write
    core.ledger.stage(lambda: core.turns.end(loop))


def _teller(log: logs.Log) -> Told:
    def tell(event: str, values: dict[str, object]) -> None:
        log.warning(event, **values)

    return tell


def _app(settings: Settings, core: Core, keys: _Keys, metrics: Metrics, overview: Any) -> App:
    async def reload_keys() -> None:
        await keys.reload()
        await core.held_everywhere(KEYS)

    def load() -> Asgi:
        # It takes longer to load than all the rest, and no call needs it.
        from bursar.runtime.control import control_of

        control = control_of(settings, core, keys.ring, keys.store, reload_keys)
        gc.freeze()  # it stays, as what was loaded at the start
        return control

    control, cors = _with_cors(Later(load), settings.server.cors_origins)
    return App(
        gateway=core.gateway,
        ring=keys.ring,
        metrics=metrics,
        overview=overview,
        control=control,
        max_body_bytes=bytes_of(settings.server.max_body_mb),
        version=bursar.__version__,
        cors=cors,
    )


async def _serve_until_told(
    app: App,
    settings: Settings,
    keys: _Keys,
    core: Core,
    sock: socket.socket,
    log: logs.Log,
    supervised: Supervised | None,
) -> None:
    accepted = Accepted(supervised.tallies) if supervised is not None else None
    stands_by = supervised is not None and supervised.stands_by
    protocol = partial(Protocol, turns=core.turns, heads={}, openings=core.gateway.openings,
                       is_stopping=lambda: app.stopping)  # fmt: skip
    counted = _counted(protocol, accepted) if accepted is not None and not stands_by else protocol
    server = _Server(_config(app.answer, settings, counted), accepted if stands_by else None)
    loop = asyncio.get_running_loop()

    def stop(why: str) -> None:
        if app.stopping:
            return
        app.stopping = True
        server.stop()
        log.info("stopping", why=why)

    def orphaned(pipe: int) -> None:
        loop.remove_reader(pipe)
        stop("the supervisor is gone")

    for name in (signal.SIGTERM, signal.SIGINT):
        loop.add_signal_handler(name, stop, name.name)
    if supervised is not None:
        loop.add_reader(supervised.pipe, orphaned, supervised.pipe)
    following = asyncio.create_task(follow(keys.look, "the keys", _teller(log)))
    try:
        await server.serve(sockets=[sock])
        # What uvicorn cancelled at its bound still has to see that it was.
        left = set(server.server_state.tasks)
        if left:
            await asyncio.wait(left, timeout=5)
    finally:
        following.cancel()


def _with_cors(control: Any, origins: list[str]) -> tuple[Any, Callable[[bytes], bytes] | None]:
    """The control plane, and what the data plane's answers need, for pages of these origins. Both ask the library;
    what a page asks beforehand is answered by the control plane for all addresses."""
    if not origins:
        return control, None
    from starlette.datastructures import MutableHeaders
    from starlette.middleware.cors import CORSMiddleware

    middleware = CORSMiddleware(
        control,
        allow_origins=origins,
        allow_methods=["GET", "POST", "PUT", "PATCH", "DELETE"],
        allow_headers=["*"],
        expose_headers=[
            "x-bursar-call-id",
            "x-bursar-provider",
            "x-bursar-model",
            "x-bursar-reason",
            "x-bursar-attempts",
        ],
    )

    def lines(origin: bytes) -> bytes:
        if not origin:
            return b""
        headers = MutableHeaders(middleware.simple_headers)
        if not middleware.allow_all_origins and middleware.is_allowed_origin(origin.decode("latin-1")):
            middleware.allow_explicit_origin(headers, origin.decode("latin-1"))
        return lines_of(headers.raw)

    return middleware, lines


def _counted(protocol: Callable[..., Protocol], accepted: Accepted) -> Callable[..., Protocol]:
    def made(**given: Any) -> Protocol:
        accepted.add()
        return protocol(**given)

    return made


def _config(answer: Any, settings: Settings, protocol: Callable[..., Protocol]) -> uvicorn.Config:
    return uvicorn.Config(
        answer,
        interface="asgi3",
        loop="none",
        http=protocol,  # type: ignore[arg-type]
        ws="none",
        lifespan="off",
        log_config=None,
        access_log=False,
        server_header=False,
        proxy_headers=False,
        timeout_keep_alive=75,
        timeout_graceful_shutdown=max(1, int(settings.server.stop_within_s)),
        backlog=2048,
    )


def run(
    settings: Settings, environ: Mapping[str, str], sock: socket.socket, supervised: Supervised | None = None
) -> None:
    """`serve` on a loop of its own: uvloop where there is one."""
    # The store's thread asks for the interpreter after each of its statements: each time it waits this long at most.
    sys.setswitchinterval(_SWITCH_S)
    with asyncio.Runner(loop_factory=_loop_factory()) as runner:
        runner.run(serve(settings, environ, sock, supervised))


def _loop_factory() -> Any:
    try:
        import uvloop
    except ImportError:
        return None
    return uvloop.new_event_loop


def bind(host: str, port: int) -> socket.socket:
    """A listening address, not listening yet. Raises OSError."""
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    sock = socket.socket(family, socket.SOCK_STREAM)
    try:
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        sock.bind((host, port))
    except BaseException:
        sock.close()
        raise
    os.set_inheritable(sock.fileno(), True)
    return sock
