"""Errors of the service as `application/problem+json` (RFC 9457)."""

from __future__ import annotations

import asyncio
from collections.abc import Mapping
from contextlib import suppress
from http import HTTPStatus
from typing import Any

from starlette.responses import JSONResponse
from starlette.types import Message, Receive, Scope, Send

from p3d.errors import printable

BODY_READ = "p3d.body_read"
"""Key of a scope: whether the body of the request has been received to its end."""

_DRAIN_BYTES, _DRAIN_SECONDS = 64 * 2**20, 2.0


class Problem(Exception):
    """A request that fails.

    Args:
        status: HTTP status.
        detail: One line in the words of the command line: value, rule, remedy.
        retry: Seconds after which it is worth to try again.
    """

    def __init__(self, status: int, detail: object, *, retry: int | None = None) -> None:
        super().__init__(printable(detail))
        self.status = status
        self.headers: dict[str, str] = {} if retry is None else {"Retry-After": str(retry)}

    def response(self) -> ProblemResponse:
        """Return the response that reports it."""
        return ProblemResponse(self.status, str(self), self.headers)

    def details(self) -> dict[str, Any]:
        """Return it as JSON values."""
        return problem_details(self.status, str(self))


def problem_details(status: int, detail: str) -> dict[str, Any]:
    """Return the members of a problem."""
    title = HTTPStatus(status).phrase
    return {"type": "about:blank", "title": title, "status": status, "detail": detail}


class ProblemResponse(JSONResponse):
    """A response that reports a problem.

    Many clients read no answer before they have sent their whole request, and the answer is lost if
    the connection is closed before. So a body that was not read is read first, within bounds.
    """

    media_type = "application/problem+json"

    def __init__(self, status: int, detail: str, headers: Mapping[str, str] | None = None) -> None:
        if status == HTTPStatus.UNAUTHORIZED:
            headers = {**(headers or {}), "WWW-Authenticate": "Bearer"}
        super().__init__(problem_details(status, detail), status, dict(headers or {}))

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Read what is left of the request, and respond."""
        waits_for_us = any(name == b"expect" for name, _ in scope["headers"])
        if not scope.get(BODY_READ) and not waits_for_us:
            with suppress(asyncio.TimeoutError):
                await asyncio.wait_for(_drain(receive), _DRAIN_SECONDS)
        await super().__call__(scope, receive, send)


async def _drain(receive: Receive) -> None:
    size, more = 0, True
    while more and size < _DRAIN_BYTES:
        message: Message = await receive()
        size += len(message.get("body", b""))
        more = message["type"] == "http.request" and message.get("more_body", False)
