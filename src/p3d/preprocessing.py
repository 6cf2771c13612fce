"""Conversion of decoded frames to a network's input.

A network gives correct results only for input that is prepared as in its training. So the
parameters of this preparation are one record, which is saved in every weight file and used by
training, evaluation, prediction and export.
"""

from __future__ import annotations

from dataclasses import asdict, dataclass, fields
from typing import Any, Literal

import torch
from torch import Tensor

from p3d.errors import UserError

Channels = Literal["rgb", "bgr", "flow"]


@dataclass(frozen=True)
class Preprocessing:
    """Parameters of the conversion of decoded uint8 frames to a network's float input.

    Attributes:
        num_frames: Frames per clip (T).
        frame_stride: Distance between consecutive frames of a clip, in frames of the video.
        resize: Height and width of a frame before the center crop of a test, in pixels.
        crop: Side of the network's square input, in pixels.
        channels: Order of the channels: "rgb", "bgr" or "flow" (x, y).
        mean: Mean of each channel, in that order, in pixel units (0-255).
        std: Standard deviation of each channel, in that order, in pixel units.
        flow_short_side: Shorter side, in pixels, to which larger frames are scaled before optical
            flow is computed; flow is measured in these pixels. Ignored for "rgb" and "bgr".
    """

    num_frames: int = 16
    frame_stride: int = 1
    resize: tuple[int, int] = (182, 242)
    crop: int = 160
    channels: Channels = "rgb"
    mean: tuple[float, ...] = (123.675, 116.28, 103.53)
    std: tuple[float, ...] = (58.395, 57.12, 57.375)
    flow_short_side: int = 256

    def __post_init__(self) -> None:
        """Raise UserError if a field is invalid."""
        expected = 2 if self.channels == "flow" else 3
        if len(self.mean) != expected or len(self.std) != expected:
            raise UserError(
                f"{self.channels} input has {expected} channels, but {len(self.mean)} means and "
                f"{len(self.std)} deviations were given; give one of each per channel"
            )
        sizes = (self.num_frames, self.frame_stride, self.crop, *self.resize, self.flow_short_side)
        if min(sizes) < 1:
            raise UserError(f"clip sizes must be at least 1, not {self}")
        if self.crop > min(self.resize):
            height, width = self.resize
            raise UserError(
                f"the crop of {self.crop} px does not fit into frames resized to {height}x{width}; "
                "use a smaller crop or a larger resize"
            )

    def to_dict(self) -> dict[str, Any]:
        """Return the fields as JSON-serializable values."""
        return asdict(self)

    @classmethod
    def from_dict(cls, values: dict[str, Any]) -> Preprocessing:
        """Return the inverse of `to_dict`, with lists (from JSON) converted to tuples.

        Raises:
            UserError: A key is unknown, or a value is invalid.
        """
        unknown = set(values) - {field.name for field in fields(cls)}
        if unknown:
            raise UserError(
                f"preprocessing has unknown entries {sorted(unknown)}; "
                "the file may come from a newer p3d: upgrade p3d"
            )
        plain: dict[str, Any] = {
            key: tuple(value) if isinstance(value, list) else value for key, value in values.items()
        }
        return cls(**plain)


IMAGENET = Preprocessing()
"""RGB, ImageNet's mean and deviation: for networks trained here or from 2-D weights."""

AUTHORS = Preprocessing(channels="bgr", mean=(104.0, 117.0, 123.0), std=(1.0, 1.0, 1.0))
"""BGR, 0-255, mean subtracted: for the RGB networks that the paper's authors released."""

AUTHORS_FLOW = Preprocessing(channels="flow", mean=(128.0, 128.0), std=(1.0, 1.0))
"""Optical flow as two 8-bit channels (x, y), 128 = no motion: for the authors' flow networks."""


def default_preprocessing(modality: str) -> Preprocessing:
    """Return the preprocessing of a new network of this modality ("rgb" or "flow")."""
    return AUTHORS_FLOW if modality == "flow" else IMAGENET


def normalize(clips: Tensor, preprocessing: Preprocessing) -> Tensor:
    """Convert a uint8 batch to the network's input, on the batch's device.

    Args:
        clips: uint8 `(N, T, H, W, C)`, RGB or flow, in the decoder's layout.
        preprocessing: Channel order, mean and deviation.

    Returns:
        float32 `(N, C, T, H, W)` with `(N, T, H, W, C)` memory (channels-last).
    """
    if preprocessing.channels == "bgr":
        clips = clips.flip(-1)
    std = torch.tensor(preprocessing.std, device=clips.device)
    mean = torch.tensor(preprocessing.mean, device=clips.device)
    # One multiply-add per value: (x - mean) / std = x * (1/std) + (-mean/std).
    return torch.addcmul(-mean / std, clips.to(torch.float32), 1 / std).permute(0, 4, 1, 2, 3)
