"""How pixels become a network's input; it travels with the weights.

A network is only as good as the agreement between the pixels it was trained on and those it is
shown. So everything between decoded frames and the first convolution stands in one frozen record,
saved with every weight file and read back by training, evaluation, prediction and export.
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
    """From decoded uint8 frames to a network's float input.

    Attributes:
        num_frames: Frames in a clip (T).
        frame_stride: Distance between neighbouring frames of a clip, in video frames.
        resize: Height and width every frame is brought to before the test crop, in pixels.
        crop: Side of the square that the network sees, in pixels.
        channels: Order of the channels that the network expects.
        mean: Per channel, in that order, in pixel units (0-255).
        std: Per channel, in that order, in pixel units.
        flow_short_side: Frames with a longer shorter side are scaled down to it before optical flow
            is computed, in pixels: motion is measured at that scale. Of no account for pictures.
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
        """Check that the numbers fit each other."""
        expected = 2 if self.channels == "flow" else 3
        if len(self.mean) != expected or len(self.std) != expected:
            raise UserError(
                f"{self.channels} input has {expected} channels, but {len(self.mean)} means and "
                f"{len(self.std)} deviations were given; give one of each a channel"
            )
        sizes = (self.num_frames, self.frame_stride, self.crop, *self.resize, self.flow_short_side)
        if min(sizes) < 1:
            raise UserError(f"clip sizes must be positive whole numbers, not {self}")
        if self.crop > min(self.resize):
            height, width = self.resize
            raise UserError(
                f"the crop of {self.crop} px does not fit into frames resized to {height}x{width}; "
                "take a smaller crop or a larger resize"
            )

    def to_dict(self) -> dict[str, Any]:
        """Plain values, fit for JSON."""
        return asdict(self)

    @classmethod
    def from_dict(cls, values: dict[str, Any]) -> Preprocessing:
        """Undo `to_dict`, also after a trip through JSON (which turns tuples into lists).

        Raises:
            UserError: A key is unknown.
        """
        unknown = set(values) - {field.name for field in fields(cls)}
        if unknown:
            raise UserError(
                f"preprocessing has unknown entries {sorted(unknown)}; "
                "the file may come from a newer p3d: upgrade it"
            )
        plain: dict[str, Any] = {
            key: tuple(value) if isinstance(value, list) else value for key, value in values.items()
        }
        return cls(**plain)


IMAGENET = Preprocessing()
"""RGB, ImageNet's mean and deviation: networks trained here or started from 2-D weights."""

AUTHORS = Preprocessing(channels="bgr", mean=(104.0, 117.0, 123.0), std=(1.0, 1.0, 1.0))
"""BGR, 0-255, mean subtracted, no deviation: the networks that the paper's authors released."""

AUTHORS_FLOW = Preprocessing(channels="flow", mean=(128.0, 128.0), std=(1.0, 1.0))
"""Optical flow as two 8-bit channels (x, y), 128 = no motion: the authors' flow networks."""


def default_preprocessing(modality: str) -> Preprocessing:
    """What a new network of this modality ("rgb" or "flow") expects."""
    return AUTHORS_FLOW if modality == "flow" else IMAGENET


def normalize(clips: Tensor, preprocessing: Preprocessing) -> Tensor:
    """Turn a uint8 batch into the network's input, on whatever device the batch lies.

    Args:
        clips: uint8 `(N, T, H, W, C)`, RGB or flow, as the decoder wrote it.
        preprocessing: Channel order, mean and deviation.

    Returns:
        float32 `(N, C, T, H, W)`, a view over `(N, T, H, W, C)` memory (channels-last).
    """
    if preprocessing.channels == "bgr":
        clips = clips.flip(-1)
    std = torch.tensor(preprocessing.std, device=clips.device)
    mean = torch.tensor(preprocessing.mean, device=clips.device)
    # One multiplication and one addition a pixel: (x - mean) / std = x * (1/std) + (-mean/std).
    return torch.addcmul(-mean / std, clips.to(torch.float32), 1 / std).permute(0, 4, 1, 2, 3)
