"""The routes whose answers come at once: classes, and where the network looks."""

from __future__ import annotations

from contextlib import ExitStack
from typing import Annotated, Any

from fastapi import FastAPI, Query, Request

from p3d.serve.answers import ExplainAnswer, ModelAnswer, PredictAnswer
from p3d.serve.described import STATUSES, VIDEO_BODY, problems
from p3d.serve.explainer import Explanation
from p3d.serve.problems import Problem
from p3d.serve.service import Answer, Service


def add_network_routes(app: FastAPI, service: Service) -> None:
    """Add the routes of answers that come at once."""

    @app.get("/v1/model", summary="The network and the limits", responses=problems(401, 421))
    async def model() -> ModelAnswer:
        return ModelAnswer.model_validate(service.about)

    @app.post(
        "/v1/predict",
        summary="The classes of a video",
        response_model_exclude_none=True,
        responses=problems(*STATUSES),
        openapi_extra={"requestBody": VIDEO_BODY},
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
        with service.admission.request(), ExitStack() as stack:
            path, name = await service.receive(request, stack)
            answer = await service.predict(path, name, features=features)
        return _predict_answer(answer, top, scores=scores, windows=windows)


def add_explain_route(app: FastAPI, service: Service) -> None:
    """Add the route of Grad-CAM."""

    @app.post(
        "/v1/explain",
        summary="Where and when the network looks for a class",
        responses=problems(*STATUSES),
        openapi_extra={"requestBody": VIDEO_BODY},
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
        with service.admission.request(), ExitStack() as stack:
            path, name = await service.receive(request, stack)
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
