"""What is checked of every request before it is routed, and added to every response."""

from __future__ import annotations

import hmac
import time
from collections.abc import Sequence
from urllib.parse import urlsplit

from starlette.datastructures import Headers, MutableHeaders
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from p3d.serve.metrics import Metrics
from p3d.serve.problems import BODY_READ, Problem, ProblemResponse

_PATHS = frozenset(
    (
        *("/", "/v1/predict", "/v1/timeline", "/v1/explain", "/v1/model"),
        *("/healthz", "/readyz", "/metrics", "/openapi.json"),
    )
)
"""Paths that `/metrics` counts by name."""
_LOCAL_NAMES = ("localhost", "127.0.0.1", "::1")
_HEADERS = {
    "Content-Security-Policy": "default-src 'none'; script-src 'self'; style-src 'self'; "
    "img-src 'self' blob: data:; media-src 'self' blob:; connect-src 'self'; base-uri 'none'; "
    "form-action 'none'; frame-ancestors 'none'",
    "X-Content-Type-Options": "nosniff",
    "Referrer-Policy": "no-referrer",
    "Cross-Origin-Resource-Policy": "same-origin",
    "Cache-Control": "no-store",
}


class Guard:
    """Checks token, host and origin, counts requests, and adds headers.

    Args:
        app: The application.
        metrics: Where requests are counted.
        token: What requests to /v1 and /metrics must carry; None for nothing.
        hosts: Names by which the service may be called; None for any. Against pages of other sites
            that let their own name point to this machine.
        origins: Origins whose pages may send requests.
    """

    def __init__(
        self,
        app: ASGIApp,
        metrics: Metrics,
        token: str | None,
        hosts: Sequence[str] | None,
        origins: Sequence[str],
    ) -> None:
        self._app, self._metrics, self._origins = app, metrics, origins
        self._token = None if token is None else token.encode()
        self._hosts = None if hosts is None else {*_LOCAL_NAMES, *map(str.lower, hosts)}

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Answer a request."""
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        started = time.monotonic()
        path = "/v1/timeline" if scope["path"].startswith("/v1/timeline/") else scope["path"]
        path = path if path in _PATHS else "other"

        async def receiving() -> Message:
            message = await receive()
            if message["type"] != "http.request" or not message.get("more_body", False):
                scope[BODY_READ] = True
            return message

        async def sending(message: Message) -> None:
            if message["type"] == "http.response.start":
                headers = MutableHeaders(scope=message)
                for name, value in _HEADERS.items():
                    headers.setdefault(name, value)
                self._metrics.requests.labels(path, message["status"]).inc()
                self._metrics.seconds.labels(path).observe(time.monotonic() - started)
            await send(message)

        refusal = self._refuse(scope)
        await (refusal or self._app)(scope, receiving, sending)

    def _refuse(self, scope: Scope) -> ProblemResponse | None:
        """Return why a request is refused, or None."""
        headers = Headers(scope=scope)
        host = _host_name(headers.get("host", ""))
        if self._hosts is not None and host not in self._hosts:
            return Problem(
                421, f"this service is not called {host}; start it with --hosts {host}"
            ).response()
        is_known = headers.get("origin") in self._origins
        if scope["method"] != "GET" and not is_known and _is_foreign(headers):
            return Problem(
                403, "pages of other sites may not use this service; start it with --cors"
            ).response()
        guarded = scope["path"].startswith("/v1/") or scope["path"] == "/metrics"
        if guarded and scope["method"] != "OPTIONS" and not self._knows_token(headers):
            return Problem(
                401, "the token is missing or wrong; send Authorization: Bearer TOKEN"
            ).response()
        return None

    def _knows_token(self, headers: Headers) -> bool:
        if self._token is None:
            return True
        scheme, _, given = headers.get("authorization", "").partition(" ")
        is_right = hmac.compare_digest(given.strip().encode("utf-8", "replace"), self._token)
        return is_right and scheme.lower() == "bearer"


def _is_foreign(headers: Headers) -> bool:
    """Return whether a page of another site asks.

    Browsers name the site only to services at this machine or by HTTPS, and others their origin.
    """
    site, origin = headers.get("sec-fetch-site"), headers.get("origin")
    if site is not None or origin is None:
        return site == "cross-site"
    return origin.partition("://")[2].lower() != headers.get("host", "").lower()


def _host_name(header: str) -> str:
    """Return the name in a Host header, without the port."""
    try:
        return urlsplit(f"//{header}").hostname or ""
    except ValueError:
        return ""
