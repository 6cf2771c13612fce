"""The frames of a clip, and the random numbers of a training clip.

All functions are pure: a clip is the same for any number of workers, ranks and restarts. A video
that is too short for a clip repeats its last frame.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from p3d.data.views import FrameOrder, Spacing

Indices = NDArray[np.int64]

TOLERANCE = 0.001
"""Seconds after an instant within which a frame is shown at it: the rounding of two times."""

# In seconds; larger than the errors of floats, smaller than the distance of times that differ.
_EPSILON = 1e-9


def clip_rng(seed: int, epoch: int, index: int) -> np.random.Generator:
    """Return the generator of a training clip, for its window first and then its augmentation.

    It is independent of those of other clips, epochs and seeds.

    Args:
        seed: The run's seed, >= 0.
        epoch: The epoch, from 0.
        index: The clip's index in the epoch before shuffling.
    """
    return _rng(seed, (epoch, index))


def epoch_rng(seed: int, epoch: int) -> np.random.Generator:
    """Return the generator of an epoch's order, the same on all ranks."""
    return _rng(seed, (epoch,))


def epoch_permutation(seed: int, epoch: int, size: int) -> Indices:
    """Return the order of an epoch's `size` clips, the same on all ranks."""
    return epoch_rng(seed, epoch).permutation(size)


def is_first_clip(seed: int, epoch: int, number: int, num_videos: int, draws: int) -> bool:
    """Return whether no other clip of a video comes before this one in the order of an epoch.

    Args:
        seed: The run's seed.
        epoch: The epoch, from 0.
        number: The clip's index before shuffling: draw `number // num_videos` from video
            `number % num_videos`.
        num_videos: Number of videos.
        draws: Clips of each video in an epoch.
    """
    if draws == 1:
        return True
    order = epoch_permutation(seed, epoch, num_videos * draws)
    return bool(order[np.argmax(order % num_videos == number % num_videos)] == number)


def _rng(seed: int, key: tuple[int, ...]) -> np.random.Generator:
    # Unlike a list of seeds, a spawn key distinguishes (1, 0) from (1,).
    return np.random.Generator(np.random.PCG64(np.random.SeedSequence(seed, spawn_key=key)))


def random_window(
    num_frames: int, clip_frames: int, stride: int, rng: np.random.Generator
) -> Indices:
    """Draw a window of evenly spaced frames, uniformly from all that fit.

    A video of 4 frames, clips of 3 frames: `[0 1 2]` or `[1 2 3]`.
    A video of 2 frames, clips of 4 frames: always `[0 1 1 1]`.

    Args:
        num_frames: Frames in the video.
        clip_frames: Frames in the clip.
        stride: Distance between neighboring frames of the clip, in frames of the video.
        rng: Generator for the start (one draw, for a short video too).

    Returns:
        int64 `(clip_frames,)`, in order.

    Raises:
        ValueError: A count is below 1.
    """
    last_start = _last_start(num_frames, clip_frames, stride)
    start = rng.integers(last_start + 1)
    return _window(start, num_frames, clip_frames, stride)


def uniform_windows(num_frames: int, clip_frames: int, stride: int, clips: int) -> Indices:
    """Return evenly spaced windows from the first to the last frame; a single one is centered.

    A video of 8 frames, clips of 2 frames:
    1 clip: `[[3 4]]`; 3 clips: `[[0 1] [3 4] [6 7]]`.
    A video of 2 frames, clips of 3 frames: `[0 1 1]` for each clip.

    Arguments are as for `random_window`; `clips` is the number of windows.

    Returns:
        int64 `(clips, clip_frames)`. Starts are rounded to whole frames and repeat if the video has
        fewer windows than `clips`.

    Raises:
        ValueError: A count is below 1.
    """
    if clips < 1:
        raise ValueError(f"clips must be at least 1, not {clips}")
    last_start = _last_start(num_frames, clip_frames, stride)
    if clips == 1:
        starts = np.array([last_start // 2])
    else:
        # Rounded in integers, since ties of floats could differ between machines.
        gaps = clips - 1
        starts = (2 * np.arange(clips, dtype=np.int64) * last_start + gaps) // (2 * gaps)
    return _window(starts[:, None], num_frames, clip_frames, stride)


def frames_at(times: NDArray[np.float64], start: float, count: int, fps: float) -> Indices:
    """Return the frames that are shown at evenly spaced instants.

    It is the last frame whose time is at most a millisecond after the instant: containers such as
    Matroska round times to milliseconds. Before the first frame it is the first one, and after the
    last frame the last one. So a video of a lower rate repeats frames.

    A video of 30 frames per second at 25: `[0 1 2 3 4 6 7 ...]`, at 60: `[0 0 1 1 2 2 ...]`.

    Args:
        times: float64 `(num_frames,)`, increasing, in seconds from the first frame.
        start: The first instant, in the same seconds.
        count: Number of instants.
        fps: Instants per second.

    Returns:
        int64 `(count,)`, in order.

    Raises:
        ValueError: There are no times, `count` is below 1, or `fps` is not above 0.
    """
    if not len(times) or count < 1 or not fps > 0:
        raise ValueError(f"{len(times)} times, {count} instants at {fps} per second: give some")
    return frames_shown(times, start + np.arange(count) / fps)


def frames_shown(times: NDArray[np.float64], instants: NDArray[np.float64]) -> Indices:
    """Return the frames that are shown at instants, in seconds; see `frames_at` for the rule."""
    shown = np.searchsorted(times, instants + (TOLERANCE + _EPSILON), side="right") - 1
    return np.maximum(shown, 0).astype(np.int64)


def seen_fraction(windows: Indices, num_frames: int) -> float:
    """Return the part of a video that windows span, in (0, 1].

    Frames that a stride skips inside a window count as seen.

    Args:
        windows: int64 `(clips, clip_frames)`, of increasing starts.
        num_frames: Frames in the video.
    """
    starts, ends = windows[:, 0], windows[:, -1] + 1
    return int((ends - np.maximum(starts, np.append(0, ends[:-1]))).sum()) / num_frames


def clips_to_see_all(num_frames: int, clip_frames: int, stride: int) -> int:
    """Return the smallest number of clips whose `seen_fraction` is 1."""
    span = (clip_frames - 1) * stride + 1
    last_start = _last_start(num_frames, clip_frames, stride)
    return -(-last_start // span) + 1


def author_windows(num_frames: int, clip_frames: int, stride: int, clips: int) -> Indices:
    """Return the windows from which the paper's authors extract features.

    With frames and clips counted from 1 and F frames, clip i of n starts at frame
    `floor((i - 1) * (F - span - 2) / n) + 1`, where span is the length of a clip in frames of the
    video, 16 for the authors. So the first clip starts at the first frame, and the last clip ends
    before the last frame. The authors do not say what happens below span + 2 frames; here all
    clips start at the first frame.

    A video of 38 frames, clips of 16 frames, 20 clips: they start at frames 0, 1, ..., 19, of
    which the last shows frames 19 to 34.

    Arguments and result are as for `uniform_windows`. Starts are computed in integers.
    """
    if clips < 1:
        raise ValueError(f"clips must be at least 1, not {clips}")
    room = max(_last_start(num_frames, clip_frames, stride) - 2, 0)
    starts = np.arange(clips, dtype=np.int64) * room // clips
    return _window(starts[:, None], num_frames, clip_frames, stride)


def spaced_windows(
    num_frames: int, clip_frames: int, stride: int, clips: int, spacing: Spacing
) -> Indices:
    """Return `uniform_windows` or `author_windows`."""
    windows = uniform_windows if spacing == "uniform" else author_windows
    return windows(num_frames, clip_frames, stride, clips)


def reorder(windows: Indices, order: FrameOrder, seed: int, video: int) -> Indices:
    """Return the frames of windows in another order, to find out whether it matters.

    * "ordered": as they are.
    * "reversed": the last one first.
    * "shuffled": in random order, a function of the seed, the video and the number of the window.
    * "still": only the one in the middle (number T // 2), T times.

    Args:
        windows: int64 `(clips, T)`.
        order: The order.
        seed: Seed of "shuffled", >= 0.
        video: Index of the video in the data set.

    Returns:
        int64 `(clips, T)`.
    """
    length = windows.shape[1]
    if order == "reversed":
        return windows[:, ::-1]
    if order == "still":
        return windows[:, [length // 2] * length]
    if order == "shuffled":
        rng = _rng(seed, (video, length))
        return rng.permuted(windows, axis=1)
    return windows


def _last_start(num_frames: int, clip_frames: int, stride: int) -> int:
    if min(num_frames, clip_frames, stride) < 1:
        raise ValueError(
            f"num_frames, clip_frames and stride must be at least 1, "
            f"not {num_frames}, {clip_frames} and {stride}"
        )
    span = (clip_frames - 1) * stride + 1
    return max(num_frames - span, 0)


def _window(start: np.int64 | Indices, num_frames: int, clip_frames: int, stride: int) -> Indices:
    indices: Indices = start + np.arange(clip_frames, dtype=np.int64) * stride
    return np.minimum(indices, num_frames - 1)
