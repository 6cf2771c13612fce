"""The videos that a predictor takes: files, folders of frames, and frames in memory."""

from __future__ import annotations

import os
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import NamedTuple, TypeAlias

import numpy as np
import torch
from torch import Tensor

from p3d.data.clips import read_eval_clips
from p3d.data.track import track_of
from p3d.errors import UserError, printable
from p3d.inference.arguments import local_path
from p3d.inference.arrays import Frames, FramesInMemory
from p3d.inference.network_input import network_input
from p3d.preprocessing import Preprocessing
from p3d.video.decode import open_video
from p3d.video.sources import FrameSource

Video: TypeAlias = "Path | str | os.PathLike[str] | Frames"
"""A video file, a folder of its frames, or its frames: uint8 `(T, H, W, C)`."""


class VideoInfo(NamedTuple):
    """What is known about a video.

    Attributes:
        path: Its file or folder; None for frames in memory.
        num_frames: Number of frames.
        num_steps: Number of steps that clips are chosen from, see `data.track`.
        fps: Frames per second; 0 if unknown.
    """

    path: Path | None
    num_frames: int
    num_steps: int
    fps: float


def read_clips(
    video: Video,
    numbers: Sequence[int],
    *,
    num_clips: int,
    prep: Preprocessing,
    device: torch.device,
    fps: float | None,
) -> tuple[Tensor, VideoInfo]:
    """Read some of the clips of a video.

    Args:
        video: The video.
        numbers: Numbers of the clips to read, from 0 to `num_clips` - 1.
        num_clips: Number of clips, uniformly spaced.
        prep: How clips are made from frames.
        device: The device that computes optical flow, if the network needs it.
        fps: Frames per second of frames in memory and of folders; None if unknown.

    Returns:
        uint8 `(len(numbers), T, H, W, C)`, and what is known about the video.

    Raises:
        BadVideoError: The video cannot be read.
        UserError: It is none, see `Predictor.__call__`.
    """
    with _open(video, prep, fps) as (path, opened):
        source = network_input(opened, prep, path, device)
        clips = read_eval_clips(source, prep, num_clips, numbers=numbers)
        steps = track_of(source, prep.fps).length
    rate = opened.fps if opened.knows_fps else 0.0
    return clips, VideoInfo(path, opened.num_frames, steps, rate)


@contextmanager
def _open(
    video: Video, prep: Preprocessing, fps: float | None
) -> Iterator[tuple[Path | None, FrameSource]]:
    if isinstance(video, (np.ndarray, Tensor)):
        yield None, FramesInMemory(video, prep, fps)
    else:
        path = path_of(video)
        with open_video(path, prefer_flow=prep.channels == "flow", fps=fps) as opened:
            yield path, opened


def path_of(video: Path | str | os.PathLike[str]) -> Path:
    """Return the path of a video that is not in memory.

    Raises:
        UserError: It is no path, empty, or an address.
    """
    if not isinstance(video, (str, os.PathLike)):
        raise UserError(
            f"a video cannot be of type {printable(type(video).__name__)}; give a path, or "
            "uint8 frames (T, H, W, 3) as an array or tensor, or a list of these"
        )
    return local_path(video, "video")
