"""Clips of videos: decoded, cropped and scaled to the input size of a network."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray
from torch import Tensor
from torch.utils.data import Dataset

from p3d.data.dataset import WHOLE, Segment
from p3d.data.sampling import (
    Indices,
    clip_rng,
    is_first_clip,
    random_window,
    reorder,
    spaced_windows,
)
from p3d.data.track import Track, track_of
from p3d.data.transforms import Augmentation, draw_train_transform, eval_transform
from p3d.data.views import CENTER, Views
from p3d.data.workers import Videos
from p3d.errors import BadVideoError, OtherFlowError
from p3d.preprocessing import Preprocessing
from p3d.video.sources import FrameSource, gather


class Sample(NamedTuple):
    """The clip or clips of one video.

    Attributes:
        clips: uint8 `(T, H, W, C)` in training, `(num_clips, T, H, W, C)` in evaluation.
        label: Its class.
        video: Its index in the data set.
        starts: First frame of each of the video's clips, from 0, also of those that were not read;
            only in evaluation.
        times: Their times in seconds, NaN if the frame rate is unknown; only in evaluation.
        length: Number of steps that the clips were chosen from, see `Track`; only in evaluation.
    """

    clips: Tensor
    label: int
    video: int
    starts: tuple[int, ...] = ()
    times: tuple[float, ...] = ()
    length: int = 0


class Unread(NamedTuple):
    """The error of a video that cannot be read; `is_first` if no earlier clip of the epoch had it.

    It is returned, not raised, since the other videos of the batch are used.
    """

    error: BadVideoError
    is_first: bool


def read_train_clip(
    video: FrameSource,
    window: NDArray[np.int64],
    prep: Preprocessing,
    *,
    augmentation: Augmentation,
    flip_probability: float,
    rng: np.random.Generator,
) -> Tensor:
    """Read a window of a video and augment it, see `draw_train_transform`.

    The crop is drawn before decoding, so that no pixel outside it is converted to RGB.

    Returns:
        uint8 `(len(window), prep.crop, prep.crop, C)`, contiguous.

    Raises:
        BadVideoError: A frame cannot be decoded.
    """
    transform = draw_train_transform(
        video.height,
        video.width,
        prep,
        augmentation=augmentation,
        flip_probability=flip_probability,
        rng=rng,
    )
    return gather(video, window, transform.read, transform)


def eval_steps(track: Track, prep: Preprocessing, num_clips: int, views: Views = CENTER) -> Indices:
    """Return the steps of the windows of a video, see `spaced_windows`.

    Returns:
        int64 `(num_clips, prep.num_frames)`.
    """
    return spaced_windows(
        track.length, prep.num_frames, prep.frame_stride, num_clips, views.spacing
    )


def read_eval_clips(
    video: FrameSource,
    prep: Preprocessing,
    num_clips: int,
    views: Views = CENTER,
    *,
    numbers: Sequence[int] | None = None,
    index: int = 0,
    segment: Segment = WHOLE,
) -> Tensor:
    """Read the clips of a video, see `eval_steps`, resized and cropped.

    Windows overlap in most videos: each frame is decoded and resized once, then copied to every
    clip that shows it. Frames are resized as they are decoded, so that only a few are in memory at
    full size.

    Args:
        video: The video.
        prep: The network's preprocessing.
        num_clips: Windows of the video in all.
        views: The clips of each window.
        numbers: Which of the windows to read, from 0; all by default.
        index: Index of the video in the data set, for the order "shuffled".
        segment: The part of the video that the windows lie in.

    Returns:
        uint8 `(n * views.per_window, prep.num_frames, prep.crop, prep.crop, C)`, contiguous, of n
        windows.

    Raises:
        BadVideoError: A frame cannot be decoded.
    """
    track = track_of(video, prep.fps, segment)
    windows = track.frames(eval_steps(track, prep, num_clips, views))
    windows = reorder(windows, views.order, views.seed, index)
    windows = windows if numbers is None else windows[list(numbers)]
    frames = gather(video, windows, None, eval_transform(video.height, video.width, prep, views))
    # (windows, T, views, ...) becomes (windows * views, T, ...).
    by_window = frames.reshape(*windows.shape, *frames.shape[1:])
    return by_window.transpose(1, 2).flatten(0, 1).contiguous()


def check_source(path: Path | str, video: FrameSource, prep: Preprocessing) -> None:
    """Check that a video has the content that the network takes.

    Raises:
        BadVideoError: It is RGB instead of optical flow or vice versa.
        OtherFlowError: It is flow of another scale or method.
    """
    if prep.channels != "flow":
        if video.flow is not None:
            raise BadVideoError(
                path,
                "holds optical flow, but the network takes pictures; give the videos themselves, "
                "or use a flow network (p3d train --modality flow)",
            )
    elif video.flow is None:
        raise BadVideoError(
            path,
            "holds pictures, but the network takes optical flow; prepare flow first (p3d prepare "
            "flow --data DATA --out FLOW), then give FLOW",
        )
    elif not video.flow.fits(prep.flow_short_side):
        raise OtherFlowError(
            path,
            f"its flow was computed at a short side of {video.flow.short_side} px, the network "
            f"takes {prep.flow_short_side}; prepare it with --short-side {prep.flow_short_side}",
        )
    elif not video.flow.made_by(prep.flow_method):
        raise OtherFlowError(
            path,
            f"its flow was computed by {video.flow.method}, the network takes {prep.flow_method}; "
            f"prepare it with --method {prep.flow_method}",
        )


@dataclass(frozen=True)
class TrainClips(Dataset["Sample | Unread"]):
    """Training clips, indexed by `(epoch, n)`, or errors.

    Clip n of an epoch is draw `n // len(videos)` from video `n % len(videos)`. If the epoch is
    balanced, the draws of a video are in the order of the epoch, see `balanced_order`.
    """

    videos: Videos
    prep: Preprocessing
    seed: int
    augmentation: Augmentation
    flip_probability: float
    clips_per_video: int
    balanced: bool = False

    def __getitem__(self, item: tuple[int, int]) -> Sample | Unread:
        epoch, number = item
        index = number % len(self.videos)
        rng = clip_rng(self.seed, epoch, number)
        prep = self.prep
        try:
            with self.videos.open(index, prefer_flow=prep.channels == "flow") as video:
                check_source(self.videos.path(index), video, prep)
                track = track_of(video, prep.fps, self.videos.record(index).segment)
                steps = random_window(track.length, prep.num_frames, prep.frame_stride, rng)
                clip = read_train_clip(
                    video,
                    track.frames(steps),
                    prep,
                    augmentation=self.augmentation,
                    flip_probability=self.flip_probability,
                    rng=rng,
                )
        except BadVideoError as error:
            return Unread(error, self._is_first(epoch, number))
        return Sample(clip, int(self.videos.labels[index]), index)

    def _is_first(self, epoch: int, number: int) -> bool:
        """Return whether no other clip of the same video comes earlier in the epoch."""
        if self.balanced:
            return number < len(self.videos)
        return is_first_clip(self.seed, epoch, number, len(self.videos), self.clips_per_video)


@dataclass(frozen=True)
class EvalClips(Dataset["Sample | Unread"]):
    """Uniformly spaced clips of each video, or its error."""

    videos: Videos
    prep: Preprocessing
    num_clips: int
    views: Views = CENTER

    def __getitem__(self, index: int) -> Sample | Unread:
        try:
            return self.read(index)
        except BadVideoError as error:
            return Unread(error, is_first=True)

    def read(self, index: int, numbers: Sequence[int] | None = None) -> Sample:
        """Read clips of a video.

        Args:
            index: The video.
            numbers: Which of its windows, from 0; all by default.

        Raises:
            BadVideoError: The video cannot be read.
        """
        prep, segment = self.prep, self.videos.record(index).segment
        with self.videos.open(index, prefer_flow=prep.channels == "flow") as video:
            check_source(self.videos.path(index), video, prep)
            clips = read_eval_clips(
                video,
                prep,
                self.num_clips,
                self.views,
                numbers=numbers,
                index=index,
                segment=segment,
            )
            track = track_of(video, prep.fps, segment)
        steps = eval_steps(track, prep, self.num_clips, self.views)[:, 0]
        steps = steps.repeat(self.views.per_window)
        starts = tuple(track.frames(steps).tolist())
        times = (
            tuple(track.seconds(steps).tolist()) if video.knows_fps else (math.nan,) * len(steps)
        )
        label = int(self.videos.labels[index])
        return Sample(clips, label, index, starts, times, track.length)
