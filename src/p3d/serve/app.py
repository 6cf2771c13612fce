"""The HTTP interface of the service."""

from __future__ import annotations

from typing import Any

from fastapi import Depends, FastAPI, Request
from fastapi.exceptions import RequestValidationError
from fastapi.responses import Response
from prometheus_client import CONTENT_TYPE_LATEST
from starlette.exceptions import HTTPException
from starlette.middleware import Middleware
from starlette.middleware.cors import CORSMiddleware
from starlette.routing import Match, Route

from p3d import __version__
from p3d.errors import printable
from p3d.serve.answers import HealthAnswer, ProblemDetails
from p3d.serve.described import problems
from p3d.serve.guard import Guard
from p3d.serve.pages import add_page
from p3d.serve.problems import Problem, ProblemResponse
from p3d.serve.requests import HeadAsGet, check_parameters
from p3d.serve.routes import add_explain_route, add_network_routes
from p3d.serve.service import Service
from p3d.serve.timeline_routes import add_timeline_routes

_ABOUT = """Predicts the classes of videos with a P3D network.

Errors are `application/problem+json` with one line in `detail`, as `p3d predict` prints it.
`GET /v1/model` states all limits, each with the status of a request that exceeds it."""


def create_app(service: Service, token: str | None = None) -> FastAPI:
    """Return the application.

    Args:
        service: The network.
        token: What requests must carry; None for nothing.
    """
    options = service.options
    hosts = options.hosts if options.is_local else None
    guard = Middleware(
        Guard, metrics=service.metrics, token=token, hosts=hosts, origins=options.cors
    )
    cors = Middleware(
        CORSMiddleware,
        allow_origins=list(options.cors),
        allow_methods=["GET", "POST", "DELETE"],
        allow_headers=["Authorization", "Content-Type"],
    )
    app = FastAPI(
        title="p3d",
        version=__version__,
        description=_ABOUT,
        docs_url=None,  # they load scripts from elsewhere
        redoc_url=None,
        middleware=[Middleware(HeadAsGet), *([cors] if options.cors else []), guard],
        dependencies=[Depends(check_parameters)],
    )
    app.state.service = service
    _add_problem_handlers(app)
    _add_state_routes(app, service)
    add_network_routes(app, service)
    add_explain_route(app, service)
    add_timeline_routes(app, service)
    add_page(app)
    _describe(app, needs_token=token is not None)
    return app


def _describe(app: FastAPI, *, needs_token: bool) -> None:
    """Complete the OpenAPI document: errors of all routes have one schema, and there is a token."""
    generate = app.openapi

    def openapi() -> dict[str, Any]:
        if app.openapi_schema is None:
            schema = generate()
            schemas = schema.setdefault("components", {}).setdefault("schemas", {})
            schemas["ProblemDetails"] = ProblemDetails.model_json_schema()
            for name in ("HTTPValidationError", "ValidationError"):
                schemas.pop(name, None)
            if needs_token:
                schema["components"]["securitySchemes"] = {
                    "token": {"type": "http", "scheme": "bearer"}
                }
                schema["security"] = [{"token": []}]
            app.openapi_schema = schema
        return app.openapi_schema

    app.openapi = openapi  # type: ignore[method-assign]


def _add_problem_handlers(app: FastAPI) -> None:
    @app.exception_handler(Problem)
    async def _problem(_: Request, error: Problem) -> ProblemResponse:
        return error.response()

    @app.exception_handler(RequestValidationError)
    async def _invalid(_: Request, error: RequestValidationError) -> ProblemResponse:
        first = error.errors()[0]
        message = first["msg"].replace("Input should", "it should")
        return Problem(422, f"{first['loc'][-1]} is {first['input']}; {message}").response()

    @app.exception_handler(HTTPException)
    async def _http(request: Request, error: HTTPException) -> ProblemResponse:
        detail = (
            f"{request.method} {request.url.path}: {str(error.detail).lower()}; see /openapi.json"
        )
        headers = dict(error.headers or {})
        if "Allow" in headers:  # the framework names the methods of one route
            headers["Allow"] = ", ".join(sorted(_methods(app, request)))
        return ProblemResponse(error.status_code, printable(detail), headers)

    @app.exception_handler(Exception)
    async def _fault(_: Request, error: Exception) -> ProblemResponse:
        return Problem(
            500, f"a fault of the service ({type(error).__name__}); see its log"
        ).response()


def _methods(app: FastAPI, request: Request) -> set[str]:
    """Return the methods of all routes of a path."""
    methods = {
        method
        for route in app.routes
        if isinstance(route, Route) and route.matches(request.scope)[0] != Match.NONE
        for method in route.methods or ()
    }
    return methods | ({"HEAD"} if "GET" in methods else set())


def _add_state_routes(app: FastAPI, service: Service) -> None:
    @app.get("/healthz", summary="Whether the process works", responses=problems(421, 503))
    async def healthz() -> HealthAnswer:
        if not service.is_healthy:
            raise Problem(503, "the thread of the network has ended; restart the service")
        return HealthAnswer(status="ok")

    @app.get("/readyz", summary="Whether requests are accepted", responses=problems(421, 503))
    async def readyz() -> HealthAnswer:
        if service.admission.is_stopping or not service.is_healthy:
            raise Problem(503, "the service is stopping")
        return HealthAnswer(status="ready")

    @app.get(
        "/metrics",
        summary="Metrics for Prometheus",
        response_class=Response,
        responses={200: {"content": {"text/plain": {}}}, **problems(401, 421)},
    )
    async def metrics() -> Response:
        return Response(service.metrics.text(), media_type=CONTENT_TYPE_LATEST)
