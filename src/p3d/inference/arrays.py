"""Frames in memory, read as a video."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any, TypeAlias

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from p3d.errors import UserError
from p3d.preprocessing import Preprocessing
from p3d.video.flow_file import FlowInfo
from p3d.video.geometry import Box
from p3d.video.sources import FrameSource, Piece, frames_per_piece

Frames: TypeAlias = "NDArray[Any] | Tensor"
"""uint8 `(T, H, W, C)`: RGB, or optical flow as p3d stores it (x, y; 128 is no motion)."""


class FramesInMemory(FrameSource):
    """A video whose frames are given as an array or tensor.

    Args:
        frames: uint8 `(T, H, W, 3)`, RGB. For a flow network also `(T, H, W, 2)`, flow.
        prep: The network's preprocessing; flow must be of its scale.
        fps: Their frame rate in frames per second, if known.

    Raises:
        UserError: The frames have another shape or type, or no rate although the network needs it.
    """

    def __init__(self, frames: Frames, prep: Preprocessing, fps: float | None = None) -> None:
        channels = (3, 2) if prep.channels == "flow" else (3,)
        _check_frames(frames, channels)
        self._frames = _to_tensor(frames)
        self.num_frames, self.height, self.width, depth = self._frames.shape
        if fps is None and prep.fps is not None:
            raise UserError(
                f"the network takes {prep.fps:g} frames a second, and frames in memory have no "
                "rate; give it as fps="
            )
        self.fps = fps or 0.0
        self.knows_fps = fps is not None
        if depth == 2:
            self.flow = FlowInfo(prep.flow_short_side, (self.height, self.width), None)

    def pieces(self, frames: Sequence[int], box: Box | None = None) -> Iterator[Piece]:
        """See `FrameSource`."""
        box = box or Box(0, 0, self.height, self.width)
        step = frames_per_piece(box.height, box.width)
        rows = slice(box.top, box.top + box.height)
        columns = slice(box.left, box.left + box.width)
        for start in range(0, len(frames), step):
            numbers = list(frames[start : start + step])
            yield numbers, self._frames[numbers, rows, columns].contiguous()


def _to_tensor(frames: Frames) -> Tensor:
    if isinstance(frames, Tensor):
        return frames.detach().cpu()
    # torch takes neither negative strides (`frames[..., ::-1]`) nor, silently, read-only memory.
    return torch.from_numpy(np.require(frames, requirements=["C", "W"]))


def _check_frames(frames: Frames, channels: tuple[int, ...]) -> None:
    shape, dtype = tuple(frames.shape), str(frames.dtype).removeprefix("torch.")
    found = f"frames in memory are {dtype} {shape}"
    wanted = f"give uint8 (T, H, W, {' or '.join(map(str, channels))})"
    wanted += ", RGB from 0 to 255"
    if len(shape) == 5:
        raise UserError(f"{found}; {wanted}; for several videos, give a list of them")
    if len(shape) == 3:
        raise UserError(f"{found}; {wanted}; stack the frames of a video first")
    if len(shape) == 4 and shape[-1] not in channels and set(shape[:2]) & set(channels):
        order = "permute(0, 2, 3, 1)" if shape[1] in channels else "permute(1, 2, 3, 0)"
        raise UserError(f"{found}; {wanted}; channels come last: torch's {order}")
    if len(shape) != 4 or shape[-1] not in channels or min(shape) < 1:
        raise UserError(f"{found}; {wanted}")
    if dtype != "uint8":
        raise UserError(f"{found}; {wanted}; a video that was scaled or normalized is not taken")
