"""The routes of the service that use the network."""

from __future__ import annotations

from contextlib import ExitStack
from pathlib import Path
from typing import Annotated, Any

from fastapi import FastAPI, Query, Request, Response

from p3d.errors import UserError
from p3d.inference.timeline.calibrated import CutArguments
from p3d.inference.timeline.timeline import Timeline
from p3d.inference.timeline.windows import SHORTEST
from p3d.serve.answers import ExplainAnswer, JobAnswer, ModelAnswer, PredictAnswer
from p3d.serve.jobs import Job, TimelineRequest
from p3d.serve.problems import Problem
from p3d.serve.service import Answer, Explanation, Service
from p3d.serve.uploads import content_type, receive_path, receive_upload

_WINDOW = "Seconds of a window; by default the length of a clip."
_HIGH = "Score that a segment reaches; by default at least `low`."
_LOW = "Score that ends a segment; not above `high`, which it follows by default."
_STRIDE = "Seconds from one window to the next; by default half a window."

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
_VIDEO_BODY = {
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


def problems(*statuses: int) -> dict[int | str, dict[str, Any]]:
    """Return the description of problems with these statuses, for a route."""
    schema = {"$ref": "#/components/schemas/ProblemDetails"}
    return {
        status: {
            "description": _STATUSES[status],
            "content": {"application/problem+json": {"schema": schema}},
        }
        for status in statuses
    }


def add_network_routes(app: FastAPI, service: Service) -> None:
    """Add the routes of answers that come at once."""

    @app.get("/v1/model", summary="The network and the limits", responses=problems(401, 421))
    async def model() -> ModelAnswer:
        return ModelAnswer.model_validate(service.about)

    @app.post(
        "/v1/predict",
        summary="The classes of a video",
        response_model_exclude_none=True,
        responses=problems(*_STATUSES),
        openapi_extra={"requestBody": _VIDEO_BODY},
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
        with service.admit(), ExitStack() as stack:
            path, name = await _receive(service, request, stack)
            answer = await service.predict(path, name, features=features)
        return _predict_answer(answer, top, scores=scores, windows=windows)


def add_explain_route(app: FastAPI, service: Service) -> None:
    """Add the route of Grad-CAM."""

    @app.post(
        "/v1/explain",
        summary="Where and when the network looks for a class",
        responses=problems(*_STATUSES),
        openapi_extra={"requestBody": _VIDEO_BODY},
    )
    async def explain(
        request: Request,
        class_: Annotated[
            str | None, Query(alias="class", description="By default the most likely one.")
        ] = None,
        time: Annotated[
            float | None,
            Query(ge=0, allow_inf_nan=False, description="Seconds; by default the middle."),
        ] = None,
    ) -> ExplainAnswer:
        """Send a video, or name one, as for /v1/predict. The maps are those of `p3d explain`."""
        if not service.has_features:
            raise Problem(422, "an exported file has no gradients; serve the weights")
        target = None if class_ is None else _find_class(class_, service.class_names)
        with service.admit(), ExitStack() as stack:
            path, name = await _receive(service, request, stack)
            found = await service.explain(path, name, target, time)
        return _explain_answer(name, service.class_names[found.target], found)


def _explain_answer(name: str, class_name: str, found: Explanation) -> ExplainAnswer:
    return ExplainAnswer.model_validate(
        {
            "video": name,
            "class": class_name,
            "score": found.score,
            "start": found.span[0],
            "end": found.span[1],
            "box": found.box,
            "maps": found.maps.mul(1000).round().div(1000).tolist(),
        }
    )


def _find_class(name: str, names: tuple[str, ...]) -> int:
    if name not in names:
        raise Problem(422, f"class is {name}; the network has no such class (see /v1/model)")
    return names.index(name)


async def _receive(service: Service, request: Request, stack: ExitStack) -> tuple[Path, str]:
    """Return the video of a request and its name.

    Args:
        service: Has the folder and the limits.
        request: The request.
        stack: Deletes what was uploaded.

    Raises:
        Problem: The video cannot be received.
    """
    kind = content_type(request)
    if kind == "multipart/form-data":
        folder = stack.enter_context(service.folder.file())
        with service.admit_upload():
            return await receive_upload(request, folder, service.limits)
    if kind == "application/json":
        return await receive_path(request, service.options.root, service.limits)
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
        "seconds": round(decoded.seconds, 3),
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
    times = [answer.decoded.times[number] for number in answer.used]
    return [
        {"start": start, "end": end, "scores": scores.tolist()}
        for (start, end), scores in zip(times, answer.probabilities, strict=True)
    ]


def add_timeline_routes(app: FastAPI, service: Service) -> None:
    """Add the routes of timelines, which take long."""

    @app.post(
        "/v1/timeline",
        status_code=202,
        summary="Start to find segments in a video",
        response_model_exclude_none=True,
        responses=problems(*_STATUSES),
        openapi_extra={"requestBody": _VIDEO_BODY},
    )
    async def start(
        request: Request,
        response: Response,
        window: Annotated[float | None, Query(ge=SHORTEST, le=3600, description=_WINDOW)] = None,
        stride: Annotated[float | None, Query(ge=SHORTEST, le=3600, description=_STRIDE)] = None,
        smooth: Annotated[float | None, Query(ge=0, description="Seconds to average over.")] = None,
        high: Annotated[float | None, Query(gt=0, le=1, description=_HIGH)] = None,
        low: Annotated[float | None, Query(gt=0, le=1, description=_LOW)] = None,
        shortest: Annotated[float | None, Query(ge=0, description="Seconds of a segment.")] = None,
        merge: Annotated[float | None, Query(ge=0, description="Longest gap to close.")] = None,
    ) -> JobAnswer:
        """Send a video, or name one, as for /v1/predict. The answer has the id of a job.

        How scores become segments is by default as calibrated for the weights, see `p3d timeline`.
        """
        given = CutArguments(smooth, high, low, shortest, merge)
        try:
            cut, _ = given.resolve(service.network.calibration)
        except UserError as error:
            raise Problem(422, error) from None
        with service.admit(), ExitStack() as stack:
            service.jobs.check_room()
            path, name = await _receive(service, request, stack)
            service.jobs.check_room()
            wanted = TimelineRequest(path, name, window, stride, cut)
            job = service.jobs.add(wanted, stack.pop_all().close)
        response.headers["Location"] = f"/v1/timeline/{job.id}"
        return _job_answer(job, scores=False)

    @app.get(
        "/v1/timeline/{job}",
        summary="How far a timeline is, and the result",
        response_model_exclude_none=True,
        responses=problems(401, 404, 421, 422),
    )
    async def look(
        job: str,
        scores: Annotated[bool, Query(description="The scores of all windows too.")] = False,
    ) -> JobAnswer:
        """Results are kept for 10 minutes."""
        found = service.jobs.find(job)
        found.was_fetched = found.has_ended
        return _job_answer(found, scores=scores)

    @app.delete(
        "/v1/timeline/{job}",
        summary="Cancel a timeline, or forget its result",
        response_model_exclude_none=True,
        responses=problems(401, 403, 404, 421, 422),
    )
    async def cancel(job: str) -> JobAnswer:
        """The last state is answered."""
        return _job_answer(service.jobs.cancel(job), scores=False)


def _job_answer(job: Job, *, scores: bool) -> JobAnswer:
    values: dict[str, Any] = {"id": job.id, "state": job.state, "progress": round(job.progress, 4)}
    if job.problem is not None:
        values["problem"] = job.problem.details()
    if job.state == "done" and job.timeline is not None:
        values["timeline"] = _timeline_values(job.timeline, scores=scores)
    return JobAnswer.model_validate(values)


def _timeline_values(timeline: Timeline, *, scores: bool) -> dict[str, Any]:
    return {
        "video": timeline.name,
        "seconds": round(timeline.duration, 3),
        "segments": [
            {
                "start": round(segment.start, 3),
                "end": round(segment.end, 3),
                "class": segment.label,
                "score": round(segment.score, 4),
            }
            for segment in timeline.segments
        ],
        "times": timeline.times.round(3).tolist(),
        "scores": timeline.scores.round(5).tolist() if scores else None,
    }
