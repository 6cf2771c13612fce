"""Conversion of decoded frames to a network's input.

A network gives correct results only for input that is prepared as in its training. So the
parameters of this preparation are one record, which is saved in every weight file and used by
training, evaluation, prediction and export.
"""

from __future__ import annotations

from dataclasses import asdict, dataclass, fields
from numbers import Integral, Real
from typing import Any, Literal, get_args

import torch
from torch import Tensor

from p3d.errors import UserError

Channels = Literal["rgb", "bgr", "flow"]

FlowMethod = Literal["tvl1", "tvl1-opencv", "tvl1-opencl", "dis"]

_MAX_SIZE = 10_000
"""Upper limit of frames, strides and sides in pixels."""
_MAX_VALUE = 1e6
"""Upper limit of means and deviations, which are in pixel units."""
MAX_FPS = 500.0
"""Upper limit of a rate at which frames are picked; times are used to a millisecond."""


@dataclass(frozen=True)
class Preprocessing:
    """Parameters of the conversion of decoded uint8 frames to a network's float input.

    Attributes:
        num_frames: Frames per clip (T).
        frame_stride: Distance between consecutive frames of a clip, in frames of the video, or in
            units of `1 / fps`.
        resize: Size of a frame before the crop, in pixels: height and width, or the short side
            alone, which keeps the aspect ratio (see `resized`).
        crop: Side of the network's square input, in pixels.
        channels: Order of the channels: "rgb", "bgr" or "flow" (x, y).
        mean: Mean of each channel, in that order, in pixel units (0-255).
        std: Standard deviation of each channel, in that order, in pixel units.
        flow_short_side: Shorter side, in pixels, to which larger frames are scaled before optical
            flow is computed; flow is measured in these pixels. Ignored for "rgb" and "bgr".
        flow_method: How flow is computed: TV-L1 by PyTorch ("tvl1") or by OpenCV, on the CPU
            ("tvl1-opencv") or an OpenCL device ("tvl1-opencl"), or OpenCV's "dis". Ignored for
            "rgb" and "bgr". Weights without it are "tvl1-opencv".
        fps: Rate at which frames are picked by their presentation times, in frames per second, see
            `p3d.data.sampling.frames_at`. None: the video's own frames ("native").
    """

    num_frames: int = 16
    frame_stride: int = 1
    resize: int | tuple[int, int] = (182, 242)
    crop: int = 160
    channels: Channels = "rgb"
    mean: tuple[float, ...] = (123.675, 116.28, 103.53)
    std: tuple[float, ...] = (58.395, 57.12, 57.375)
    flow_short_side: int = 256
    flow_method: FlowMethod = "tvl1-opencv"
    fps: float | None = None

    def __post_init__(self) -> None:
        """Raise UserError if a field is invalid."""
        if self.channels not in get_args(Channels):
            raise UserError(
                f"no channels are called {str(self.channels)[:20]!r}; "
                f"choose one of: {', '.join(get_args(Channels))}"
            )
        if self.flow_method not in get_args(FlowMethod):
            raise UserError(
                f"no flow_method is called {str(self.flow_method)[:20]!r}; "
                f"choose one of: {', '.join(get_args(FlowMethod))}"
            )
        expected = 2 if self.channels == "flow" else 3
        self._check_statistics("mean", self.mean, expected)
        self._check_statistics("std", self.std, expected)
        if min(self.std) <= 0:
            raise UserError(f"std is {self.std}; give deviations greater than 0")
        resize = self.resize
        sides = resize if isinstance(resize, (tuple, list)) else (resize, resize)
        if len(sides) != 2:
            raise UserError(
                f"resize is {str(resize)[:40]}; give height and width, or the short side"
            )
        for name in ("num_frames", "frame_stride", "crop", "resize", "flow_short_side"):
            value = getattr(self, name)
            for size in sides if name == "resize" else (value,):
                whole = isinstance(size, Integral) and not isinstance(size, bool)
                if not whole or not 1 <= size <= _MAX_SIZE:
                    raise UserError(
                        f"{name} is {str(value)[:40]}; give integers from 1 to {_MAX_SIZE}"
                    )
        if self.crop > min(self.resized(1, 1)):
            raise UserError(
                f"the crop of {self.crop} px does not fit into frames resized to "
                f"{self.describe_resize()}; use a smaller crop or a larger resize"
            )
        self._check_fps()

    def resized(self, height: int, width: int) -> tuple[int, int]:
        """Return the height and width that a frame is resized to before the crop.

        If `resize` is the short side, the long side is multiplied by the same factor and rounded
        to the nearest pixel, half a pixel up. It is limited to 10,000 px.

        Args:
            height: Height of the decoded frame in pixels.
            width: Its width.
        """
        if isinstance(self.resize, (tuple, list)):
            return self.resize[0], self.resize[1]
        side, short, long = self.resize, min(height, width), max(height, width)
        scaled = min((2 * long * side + short) // (2 * short), _MAX_SIZE)
        return (side, scaled) if height <= width else (scaled, side)

    def describe_resize(self) -> str:
        """Return `resize` in words, after "resized to"."""
        if isinstance(self.resize, (tuple, list)):
            return "x".join(map(str, self.resize))
        return f"a short side of {self.resize}"

    def describe_flow(self) -> str:
        """Return how flow is computed, to follow other words; empty for RGB networks."""
        if self.channels != "flow":
            return ""
        return f"; flow by {self.flow_method}, short side at most {self.flow_short_side}"

    def describe_rate(self) -> str:
        """Return `fps` in words, after a number of frames."""
        return "at the video's own rate" if self.fps is None else f"at {self.fps:g} a second"

    def _check_fps(self) -> None:
        fps = self.fps
        if fps is None:
            return
        is_number = isinstance(fps, Real) and not isinstance(fps, bool)
        if not is_number or not 0 < fps <= MAX_FPS:
            raise UserError(
                f"fps is {str(fps)[:40]}; give a number above 0, at most {MAX_FPS:g}, or None for "
                "the video's own rate"
            )

    def _check_statistics(self, name: str, values: tuple[float, ...], expected: int) -> None:
        """Raise UserError unless there is a finite number per channel."""
        if not isinstance(values, (tuple, list)) or not all(
            isinstance(value, Real) and not isinstance(value, bool) and abs(value) < _MAX_VALUE
            for value in values
        ):
            raise UserError(f"{name} is {str(values)[:40]}; give one number per channel")
        if len(values) != expected:
            raise UserError(
                f"{self.channels} input has {expected} channels, but {name} has {len(values)} "
                "numbers; give one per channel"
            )

    def to_dict(self) -> dict[str, Any]:
        """Return the fields as JSON-serializable values.

        A native rate and OpenCV's TV-L1 are left out, so that earlier versions of p3d read the
        file.
        """
        values = asdict(self)
        for name, earlier in (("fps", None), ("flow_method", "tvl1-opencv")):
            if values[name] == earlier:
                del values[name]
        return values

    @classmethod
    def from_dict(cls, values: dict[str, Any]) -> Preprocessing:
        """Return the inverse of `to_dict`, with lists (from JSON) converted to tuples.

        Raises:
            UserError: A key is unknown, or a value is invalid.
        """
        if not isinstance(values, dict):
            raise UserError("preprocessing is no dictionary; save the model again")
        unknown = set(values) - {field.name for field in fields(cls)}
        if unknown:
            raise UserError(
                f"preprocessing has unknown entries {str(sorted(unknown))[:80]}; "
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

    Raises:
        UserError: The clips have another form.
    """
    channels = len(preprocessing.mean)
    if not isinstance(clips, Tensor) or clips.ndim != 5 or clips.shape[-1] != channels:
        shape = getattr(clips, "shape", None)
        given = type(clips).__name__ if shape is None else f"{type(clips).__name__} {tuple(shape)}"
        raise UserError(f"clips are of type {given}; give a tensor (N, T, H, W, {channels})")
    if preprocessing.channels == "bgr":
        clips = clips.flip(-1)
    std = torch.tensor(preprocessing.std, device=clips.device)
    mean = torch.tensor(preprocessing.mean, device=clips.device)
    # One multiply-add per value: (x - mean) / std = x * (1/std) + (-mean/std). Whole rows of pixels
    # are faster than three values at a time.
    width = clips.shape[3]
    rows = clips.flatten(3).to(torch.float32)
    rows = torch.addcmul((-mean / std).repeat(width), rows, (1 / std).repeat(width))
    return rows.view(clips.shape).permute(0, 4, 1, 2, 3)
