"""The server's one ASGI application: a small dispatcher above the data plane and the control plane."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from contextlib import suppress
from urllib.parse import unquote

from bursar.gateway.gateway import Gateway
from bursar.http import openai
from bursar.http.answers import Receive, Scope, Send, send_error, send_json
from bursar.http.auth import KeyRing
from bursar.http.departures import Departures
from bursar.http.metrics import CONTENT_TYPE, Metrics
from bursar.ledger.ids import uuid7
from bursar.ledger.ledger import REFUSE, now_us
from bursar.ledger.status import Overview
from bursar.types.errors import BursarError, RequestError, StoppingError
from bursar.wire.assemble import encode_json

Asgi = Callable[[Scope, Receive, Send], Awaitable[None]]


class TooLargeError(RequestError):
    """The body is larger than this server takes."""

    http_status = 413
    code = "request_too_large"


class MethodError(RequestError):
    """This address does not know that method."""

    http_status = 405
    code = "method_not_allowed"


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
    ) -> None:
        self._gateway = gateway
        self._ring = ring
        self._metrics = metrics
        self._overview = overview
        self._control = control
        self._max_body_bytes = max_body_bytes
        self._version = version
        self._departures = Departures()
        self.stopping = False

    def __call__(self, scope: Scope, receive: Receive, send: Send) -> Awaitable[None]:
        """What answers a request, to be awaited."""
        path: str = scope["path"]
        if path.startswith("/v1/"):
            return self._data_plane(path, scope, receive, send)
        if path == "/health":
            return self._health(send)
        if path == "/metrics":
            return _send_text(send, self._metrics.render())
        return self._control(scope, receive, send)

    async def _data_plane(self, path: str, scope: Scope, receive: Receive, send: Send) -> None:
        headers = openai.headers_of(scope["headers"])
        try:
            principal = self._ring.authenticate(headers)
            if path in openai.OPERATIONS:
                _expect(scope, "POST")
                if self.stopping:
                    raise StoppingError
                body = await self._body(headers, receive)
                if body is None:
                    return
                answering = openai.serve(self._gateway, principal, path, headers, body, send)
                await self._departures.work(receive, answering)
            elif path == "/v1/models":
                _expect(scope, "GET")
                await send_json(send, 200, openai.models(self._gateway), [_call_id()])
            elif path.startswith("/v1/models/"):
                _expect(scope, "GET")
                found = openai.model(self._gateway, unquote(path.removeprefix("/v1/models/")))
                await send_json(send, 200, found, [_call_id()])
            else:
                raise NoAddressError(f"there is nothing at {path}")
        except BursarError as error:
            await send_error(send, error, [_call_id()])
        except Exception:
            # A fault of ours, in the same shape as any error; where the answer had begun, the server ends it.
            with suppress(RuntimeError):
                await send_error(send, BursarError(), [_call_id()])
            raise

    async def _body(self, headers: dict[str, str], receive: Receive) -> bytes | None:
        """The whole body, None where the client left before it was sent. Raises TooLargeError."""
        limit = self._max_body_bytes
        said = headers.get("content-length", "0")
        if said.isdigit() and int(said) > limit:
            raise TooLargeError(f"the body of {int(said)} bytes is larger than the {limit} this server takes")
        message = await receive()
        body: bytes = message.get("body", b"")
        if message.get("more_body"):
            parts = [body]
            size = len(body)
            while message.get("more_body"):
                message = await receive()
                if message["type"] == "http.disconnect":
                    return None
                parts.append(message.get("body", b""))
                size += len(parts[-1])
                if size > limit:
                    raise TooLargeError(f"the body is larger than the {limit} bytes this server takes")
            body = b"".join(parts)
        return None if message["type"] == "http.disconnect" else body

    async def _health(self, send: Send) -> None:
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
        await send_json(send, 200 if serving else 503, encode_json(body))


def _expect(scope: Scope, method: str) -> None:
    if scope["method"] != method:
        raise MethodError(f"{scope['path']} knows {method} only")


def _call_id() -> tuple[bytes, bytes]:
    """An answer to what became no call has an id too, to be quoted; it stands on no entry."""
    return b"x-bursar-call-id", uuid7(now_us()).encode()


async def _send_text(send: Send, body: bytes) -> None:
    head = [(b"content-type", CONTENT_TYPE), (b"content-length", b"%d" % len(body))]
    await send({"type": "http.response.start", "status": 200, "headers": head})
    await send({"type": "http.response.body", "body": body})
