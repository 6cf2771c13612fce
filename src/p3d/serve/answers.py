"""What the service answers, as its OpenAPI document describes it."""

from __future__ import annotations

from typing import Any

from pydantic import BaseModel, ConfigDict, Field

from p3d.serve.jobs import State


class ProblemDetails(BaseModel):
    """An error (RFC 9457)."""

    type: str = Field(examples=["about:blank"])
    title: str = Field(examples=["Unprocessable Content"])
    status: int = Field(examples=[422])
    detail: str = Field(
        description="One line, as the command line would print it.",
        examples=["walk.avi: not a video that FFmpeg can read (Invalid data found)"],
    )


class ClassScore(BaseModel):
    """A class and its probability."""

    model_config = ConfigDict(populate_by_name=True)

    name: str = Field(alias="class", examples=["Biking"])
    score: float = Field(examples=[0.93], ge=0, le=1)


class ClipScores(BaseModel):
    """The probabilities of one clip."""

    start: float = Field(description="Time of its first frame in seconds.", examples=[0.0])
    end: float = Field(description="End of its last frame in seconds.", examples=[0.64])
    scores: list[float] = Field(description="A probability for each class, in their order.")


class PredictAnswer(BaseModel):
    """The classes of a video."""

    video: str = Field(description="Its name, as the request gives it.", examples=["walk.avi"])
    top: list[ClassScore] = Field(description="The most likely classes, best first.")
    frames: int = Field(examples=[250])
    fps: float = Field(description="0 if unknown.", examples=[25.0])
    seconds: float = Field(description="Length of the video; 0 if unknown.", examples=[10.0])
    seen: float = Field(
        description="The part of the video that the clips span, from 0 to 1.", examples=[1.0]
    )
    clips: int = Field(description="Clips that the answer takes.", examples=[20])
    scores: list[float] | None = Field(
        None, description="A probability for each class, in the order of /v1/model."
    )
    features: list[float] | None = Field(
        None, description="The pooled features before the classifier, averaged over the clips."
    )
    windows: list[ClipScores] | None = Field(None, description="The clips in the order of time.")


class SegmentAnswer(BaseModel):
    """A stretch of a video that shows a class."""

    model_config = ConfigDict(populate_by_name=True)

    start: float = Field(description="Seconds from the first frame.", examples=[3.2])
    end: float = Field(examples=[5.84])
    name: str = Field(alias="class", examples=["Biking"])
    score: float = Field(description="Mean of its smoothed probabilities.", ge=0, le=1)


class TimelineAnswer(BaseModel):
    """When the classes are seen in a video."""

    video: str = Field(examples=["film.mp4"])
    seconds: float = Field(description="Length of the video.", examples=[60.0])
    segments: list[SegmentAnswer]
    times: list[float] = Field(description="The middle of each window in seconds.")
    scores: list[list[float]] | None = Field(
        None, description="For each window a probability for each class."
    )


class JobAnswer(BaseModel):
    """A timeline that is made."""

    id: str = Field(examples=["pT9hZJ0vQ0Gm0Qd8x1n5Vw"])
    state: State = Field(description="done, failed and canceled do not change any more.")
    progress: float = Field(description="From 0 to 1.", examples=[0.4], ge=0, le=1)
    timeline: TimelineAnswer | None = Field(None, description="The result, once it is done.")
    problem: ProblemDetails | None = Field(None, description="Why it failed.")


class ExplainAnswer(BaseModel):
    """Where and when a network looks for a class, by Grad-CAM."""

    model_config = ConfigDict(populate_by_name=True)

    video: str = Field(examples=["walk.avi"])
    name: str = Field(alias="class", examples=["Biking"])
    score: float = Field(description="Its probability in this clip.", ge=0, le=1)
    start: float = Field(description="Time of the clip's first frame in seconds.")
    end: float = Field(description="End of its last frame in seconds.")
    box: list[float] = Field(
        description="The part of the frame that the network sees: left, top, width and height, "
        "as fractions of the frame.",
        min_length=4,
        max_length=4,
    )
    maps: list[list[list[float]]] = Field(
        description="Steps in time, rows and columns over the box; from 0 to 1."
    )


class LimitValue(BaseModel):
    """A limit."""

    value: int | float | None = Field(description="null if this system does not enforce it.")
    unit: str
    status: int = Field(description="HTTP status of a request that exceeds it.")


class ModelAnswer(BaseModel):
    """The network and the service."""

    version: str = Field(description="Version of p3d.")
    network: str = Field(examples=["p3d63"])
    weights: str = Field(description="Name of the file.", examples=["best.safetensors"])
    sha256: str = Field(description="SHA-256 of the file.")
    classes: list[str]
    preprocessing: dict[str, Any]
    clips: int | str = Field(examples=[20])
    device: str = Field(examples=["cpu"])
    precision: str = Field(examples=["fp32"])
    features: bool = Field(description="Whether features and explanations can be asked for.")
    paths: bool = Field(description="Whether videos can be named by path.")
    token: bool = Field(description="Whether requests need a token.")
    limits: dict[str, LimitValue]


class HealthAnswer(BaseModel):
    """Whether the service is well."""

    status: str = Field(examples=["ok"])
