"""What the service answers, as its OpenAPI document describes it."""

from __future__ import annotations

from typing import Any

from pydantic import BaseModel, ConfigDict, Field


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
    features: bool = Field(description="Whether features can be asked for.")
    paths: bool = Field(description="Whether videos can be named by path.")
    token: bool = Field(description="Whether requests need a token.")
    limits: dict[str, LimitValue]


class State(BaseModel):
    """Whether the service is well."""

    status: str = Field(examples=["ok"])
