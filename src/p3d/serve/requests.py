"""What holds for every request: HEAD is answered, and unknown parameters are refused."""

from __future__ import annotations

from fastapi import Request
from fastapi.routing import APIRoute
from starlette.types import ASGIApp, Receive, Scope, Send

from p3d.serve.problems import Problem


class HeadAsGet:
    """Answer HEAD like GET, as monitors and proxies expect; the server leaves the body out.

    Args:
        app: The application, whose routes know GET only.
    """

    def __init__(self, app: ASGIApp) -> None:
        self._app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Pass a request on."""
        if scope["type"] == "http" and scope["method"] == "HEAD":
            scope = {**scope, "method": "GET"}
        await self._app(scope, receive, send)


async def check_parameters(request: Request) -> None:
    """Check that a route of the interface knows every parameter of the query.

    Raises:
        Problem: It does not.
    """
    route = request.scope.get("route")
    if not isinstance(route, APIRoute) or not route.include_in_schema:
        return
    known = sorted(field.alias for field in route.dependant.query_params)
    for name in request.query_params:
        if name not in known:
            remedy = f"give one of: {', '.join(known)}" if known else "this request takes none"
            raise Problem(422, f"{name[:100]}: there is no such parameter; {remedy}")
