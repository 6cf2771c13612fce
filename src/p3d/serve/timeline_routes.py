"""The routes of timelines, which take long."""

from __future__ import annotations

from contextlib import ExitStack
from typing import Annotated, Any

from fastapi import FastAPI, Query, Request, Response

from p3d.errors import UserError
from p3d.inference.timeline.calibrated import CutArguments
from p3d.inference.timeline.timeline import Timeline
from p3d.inference.timeline.windows import SHORTEST
from p3d.serve.answers import JobAnswer
from p3d.serve.described import STATUSES, VIDEO_BODY, problems
from p3d.serve.jobs import Job, TimelineRequest
from p3d.serve.problems import Problem
from p3d.serve.service import Service

_WINDOW = "Seconds of a window; by default the length of a clip."
_STRIDE = "Seconds from one window to the next; by default half a window."
_HIGH = "Score that a segment reaches; by default at least `low`."
_LOW = "Score that ends a segment; not above `high`, which it follows by default."

_Step = Annotated[float | None, Query(ge=SHORTEST, le=3600)]
_Score = Annotated[float | None, Query(gt=0, le=1)]
_Seconds = Annotated[float | None, Query(ge=0)]


def add_timeline_routes(app: FastAPI, service: Service) -> None:
    """Add the routes that start a job, look at it, and end it."""
    _add_start(app, service)
    _add_look(app, service)
    _add_cancel(app, service)


def _add_start(app: FastAPI, service: Service) -> None:
    @app.post(
        "/v1/timeline",
        status_code=202,
        summary="Start to find segments in a video",
        response_model_exclude_none=True,
        responses=problems(*STATUSES),
        openapi_extra={"requestBody": VIDEO_BODY},
    )
    async def start(
        request: Request,
        response: Response,
        window: Annotated[_Step, Query(description=_WINDOW)] = None,
        stride: Annotated[_Step, Query(description=_STRIDE)] = None,
        smooth: Annotated[_Seconds, Query(description="Seconds to average over.")] = None,
        high: Annotated[_Score, Query(description=_HIGH)] = None,
        low: Annotated[_Score, Query(description=_LOW)] = None,
        shortest: Annotated[_Seconds, Query(description="Seconds of a segment.")] = None,
        merge: Annotated[_Seconds, Query(description="Longest gap to close.")] = None,
    ) -> JobAnswer:
        """Send a video, or name one, as for /v1/predict. The answer has the id of a job.

        How scores become segments is by default as calibrated for the weights, see `p3d timeline`.
        """
        given = CutArguments(smooth, high, low, shortest, merge)
        try:
            cut, _ = given.resolve(service.network.calibration)
        except UserError as error:
            raise Problem(422, error) from None
        with service.admission.request(), ExitStack() as stack:
            service.jobs.check_room()
            path, name = await service.receive(request, stack)
            service.jobs.check_room()
            wanted = TimelineRequest(path, name, window, stride, cut)
            job = service.jobs.add(wanted, stack.pop_all().close)
        response.headers["Location"] = f"/v1/timeline/{job.id}"
        return _job_answer(job, scores=False)


def _add_look(app: FastAPI, service: Service) -> None:
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


def _add_cancel(app: FastAPI, service: Service) -> None:
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
