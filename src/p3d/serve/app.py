"""The HTTP interface of the service."""

from __future__ import annotations

from typing import Annotated, Any

from fastapi import FastAPI, Query, Request
from fastapi.exceptions import RequestValidationError
from fastapi.responses import Response
from prometheus_client import CONTENT_TYPE_LATEST
from starlette.exceptions import HTTPException
from starlette.middleware import Middleware
from starlette.middleware.cors import CORSMiddleware

from p3d import __version__
from p3d.serve.answers import ModelAnswer, PredictAnswer, ProblemDetails, State
from p3d.serve.guard import Guard
from p3d.serve.problems import Problem, ProblemResponse
from p3d.serve.service import Answer, Service
from p3d.serve.uploads import content_type, receive_path, receive_upload

_ABOUT = """Predicts the classes of videos with a P3D network.

Errors are `application/problem+json` with one line in `detail`, as `p3d predict` prints it.
`GET /v1/model` states all limits, each with the status of a request that exceeds it."""

_STATUSES = {
    400: "The body is damaged or ends early.",
    401: "The token is missing or wrong.",
    403: "The path is not in the folder of this service, or a page of another site asks.",
    404: "There is no such file.",
    408: "The upload takes too long.",
    413: "The file is too large.",
    415: "The body is neither multipart/form-data nor JSON.",
    421: "The service is called by a name that it does not have.",
    422: "The video cannot be read, it exceeds a limit, or a parameter is out of range.",
    429: "Too many uploads are under way; see Retry-After.",
    500: "The network's outputs are not finite, or another fault of the service.",
    502: "The video killed the process that decoded it.",
    503: "Too many requests wait, or the service is stopping; see Retry-After.",
    504: "The answer takes too long.",
}
_PREDICT_BODY = {
    "required": True,
    "content": {
        "multipart/form-data": {
            "schema": {
                "type": "object",
                "required": ["video"],
                "properties": {"video": {"type": "string", "format": "binary"}},
            }
        },
        "application/json": {
            "schema": {
                "type": "object",
                "required": ["path"],
                "properties": {
                    "path": {
                        "type": "string",
                        "minLength": 1,
                        "description": "A video in the folder of --root.",
                    }
                },
            },
            "example": {"path": "walk.avi"},
        },
    },
}


def _problems(*statuses: int) -> dict[int | str, dict[str, Any]]:
    schema = {"$ref": "#/components/schemas/ProblemDetails"}
    return {
        status: {
            "description": _STATUSES[status],
            "content": {"application/problem+json": {"schema": schema}},
        }
        for status in statuses
    }


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
        middleware=[cors, guard] if options.cors else [guard],
    )
    app.state.service = service
    _add_problem_handlers(app)
    _add_state_routes(app, service)
    _add_network_routes(app, service)
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
        return ProblemResponse(error.status_code, Problem(0, detail).args[0], error.headers)

    @app.exception_handler(Exception)
    async def _fault(_: Request, error: Exception) -> ProblemResponse:
        return Problem(
            500, f"a fault of the service ({type(error).__name__}); see its log"
        ).response()


def _add_state_routes(app: FastAPI, service: Service) -> None:
    @app.get("/healthz", summary="Whether the process works", responses=_problems(421, 503))
    async def healthz() -> State:
        if not service.is_healthy:
            raise Problem(503, "the thread of the network has ended; restart the service")
        return State(status="ok")

    @app.get("/readyz", summary="Whether requests are accepted", responses=_problems(421, 503))
    async def readyz() -> State:
        if service.is_stopping or not service.is_healthy:
            raise Problem(503, "the service is stopping")
        return State(status="ready")

    @app.get(
        "/metrics",
        summary="Metrics for Prometheus",
        response_class=Response,
        responses={200: {"content": {"text/plain": {}}}, **_problems(401, 421)},
    )
    async def metrics() -> Response:
        return Response(service.metrics.text(), media_type=CONTENT_TYPE_LATEST)


def _add_network_routes(app: FastAPI, service: Service) -> None:
    @app.get("/v1/model", summary="The network and the limits", responses=_problems(401, 421))
    async def model() -> ModelAnswer:
        return ModelAnswer.model_validate(service.about)

    @app.post(
        "/v1/predict",
        summary="The classes of a video",
        response_model_exclude_none=True,
        responses=_problems(*_STATUSES),
        openapi_extra={"requestBody": _PREDICT_BODY},
    )
    async def predict(
        request: Request,
        top: Annotated[int, Query(ge=1, description="Number of classes.")] = 5,
        scores: Annotated[bool, Query(description="The probabilities of all classes.")] = False,
        features: Annotated[bool, Query(description="The features of the video.")] = False,
        windows: Annotated[bool, Query(description="The probabilities of each clip.")] = False,
    ) -> PredictAnswer:
        """Send a video as multipart/form-data, or name one in the folder of --root as JSON."""
        if features and not service.has_features:
            raise Problem(422, "features: an exported file has none; serve the weights")
        with service.admit():
            answer = await _answer(service, request, features=features)
        return _predict_answer(answer, top, scores=scores, windows=windows)


async def _answer(service: Service, request: Request, *, features: bool) -> Answer:
    """Receive the video of a request and predict its classes.

    Raises:
        Problem: It cannot be received or read.
    """
    kind = content_type(request)
    if kind == "multipart/form-data":
        with service.admit_upload() as folder:
            path, name = await receive_upload(request, folder, service.limits)
            return await service.predict(path, name, features=features)
    if kind == "application/json":
        path, name = await receive_path(request, service.options.root, service.limits)
        return await service.predict(path, name, features=features)
    raise Problem(415, f"the body is {kind or 'of no type'}; send multipart/form-data or JSON")


def _predict_answer(answer: Answer, top: int, *, scores: bool, windows: bool) -> PredictAnswer:
    prediction, decoded = answer.prediction, answer.decoded
    values: dict[str, Any] = {
        "video": answer.name,
        "top": [
            {"class": name, "score": round(score, 6)}
            for name, score in prediction.top(min(top, len(prediction.class_names)))
        ],
        "frames": decoded.num_frames,
        "fps": decoded.fps,
        "seconds": decoded.num_frames / decoded.fps if decoded.fps > 0 else 0,
        "seen": round(prediction.seen, 4),
        "clips": prediction.num_clips,
    }
    if scores:
        values["scores"] = prediction.scores.tolist()
    if windows:
        values["windows"] = _windows(answer)
    if answer.features is not None:
        values["features"] = answer.features.tolist()
    return PredictAnswer.model_validate(values)


def _windows(answer: Answer) -> list[dict[str, Any]]:
    rate = answer.decoded.fps or 1.0
    return [
        {
            "start": round(int(window[0]) / rate, 3),
            "end": round((int(window[-1]) + 1) / rate, 3),
            "scores": scores.tolist(),
        }
        for window, scores in zip(
            answer.decoded.windows[answer.used], answer.probabilities, strict=True
        )
    ]
