"""The server's dispatcher: requests to the data plane are answered here, those under `/api` by the control plane."""

from __future__ import annotations

from collections.abc import Callable, Coroutine
from urllib.parse import unquote

from bursar.gateway.gateway import Gateway
from bursar.http import calls
from bursar.http.answers import MethodError, answer_error, answer_json
from bursar.http.asgi import Asgi, answering
from bursar.http.auth import KeyRing, key_of
from bursar.http.cycle import Cycle, lines_of
from bursar.http.metrics import CONTENT_TYPE, Metrics
from bursar.ledger.ids import uuid7
from bursar.ledger.ledger import REFUSE, now_us
from bursar.ledger.status import Overview
from bursar.types.errors import BursarError, RequestError, StoppingError
from bursar.wire.assemble import encode_json


class NoAddressError(RequestError):
    """There is nothing at this address."""

    http_status = 404
    code = "not_found"


class App:
    """The dispatcher. `stopping` makes it not ready: `/health` says so and new calls are turned away."""

    def __init__(
        self,
        *,
        gateway: Gateway,
        ring: KeyRing,
        metrics: Metrics,
        overview: Callable[[], Overview],
        control: Asgi,
        max_body_bytes: int,
        version: str,
        cors: Callable[[bytes], bytes] | None = None,
    ) -> None:
        """`cors` gives the header lines that a page of that origin needs; the control plane has its own."""
        self._gateway = gateway
        self._ring = ring
        self._metrics = metrics
        self._overview = overview
        self._control = answering(control)
        self._max_body_bytes = max_body_bytes
        self._version = version
        self._cors = cors
        self.stopping = False

    def answer(self, cycle: Cycle) -> Coroutine[object, object, None]:
        """What answers a request, to be awaited."""
        path = cycle.head.path
        if self._cors is not None:
            if cycle.head.method == b"OPTIONS":
                return self._control(cycle)
            if not path.startswith("/api/"):
                cycle.own_lines = self._cors(cycle.head.named.get(b"origin", b""))
        if path in calls.OPERATIONS and not self.stopping:
            return calls.serve(self._gateway, self._ring, self._max_body_bytes, cycle)
        if path.startswith("/v1/"):
            return self._data_plane(path, cycle)
        if path == "/health":
            return self._health(cycle)
        if path == "/metrics":
            return self._show_metrics(cycle)
        if path.startswith("/api/") or path == "/openapi.json":
            return self._control(cycle)
        return self._nowhere(cycle)

    async def _data_plane(self, path: str, cycle: Cycle) -> None:
        """What is not metered under /v1."""
        try:
            principal = self._ring.authenticate(cycle.head.named.get(b"authorization") or key_of(cycle.head.named))
            if path in calls.OPERATIONS:
                raise StoppingError
            if path != "/v1/models" and not path.startswith("/v1/models/"):
                raise NoAddressError(f"there is nothing at {path}")
            if cycle.head.method != b"GET":
                raise MethodError(f"{path} knows GET only")
            if path == "/v1/models":
                found = calls.models(self._gateway, principal)
            else:
                found = calls.model(self._gateway, principal, unquote(path.removeprefix("/v1/models/")))
            answer_json(cycle, 200, found, [_call_id()])
        except BursarError as error:
            answer_error(cycle, error, [_call_id()])

    async def _nowhere(self, cycle: Cycle) -> None:
        answer_error(cycle, NoAddressError(f"there is nothing at {cycle.head.path}"), [_call_id()])

    async def _health(self, cycle: Cycle) -> None:
        state = self._overview()
        refuses = state.full and self._gateway.ledger.limits.full == REFUSE
        serving = not self.stopping and not refuses
        body = {
            "status": "stopping" if self.stopping else "refusing" if refuses else "ok",
            "version": self._version,
            "workers": state.processes,
            "store": {"state": "ok" if state.error is None else "unavailable", "error": state.error},
            "spool": {
                "records": state.records,
                "bytes": state.bytes,
                "lag_s": state.lag_s,
                "open_entries": state.open_entries,
                "orphans": state.orphans,
                "full": state.full,
            },
            "gap": state.gap,
            "loop_gap_ms": round(state.loop_gap_s * 1000, 1),
        }
        answer_json(cycle, 200 if serving else 503, encode_json(body))

    async def _show_metrics(self, cycle: Cycle) -> None:
        cycle.answer(200, lines_of([(b"content-type", CONTENT_TYPE)]), self._metrics.render())


def _call_id() -> tuple[bytes, bytes]:
    """An answer to what became no call has an id too, to be quoted; it stands on no entry."""
    return b"x-bursar-call-id", uuid7(now_us()).encode()
