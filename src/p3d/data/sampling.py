"""Which frames of a video a clip shows, and where its randomness comes from.

Everything is a pure function of its arguments: the same clip comes out whatever the number of
workers, processes or restarts. One rule serves all videos that are too short for a clip: their
last frame is held.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

Indices = NDArray[np.int64]


def clip_rng(seed: int, epoch: int, index: int) -> np.random.Generator:
    """The one source of randomness of a training clip: first its window, then its augmentation.

    Args:
        seed: The run's seed, >= 0.
        epoch: The epoch, from 0.
        index: The clip's number within the epoch's set of clips, before shuffling.

    Returns:
        A generator that is independent of those of all other triples.
    """
    return _rng(seed, (epoch, index))


def epoch_permutation(seed: int, epoch: int, size: int) -> Indices:
    """The order in which an epoch visits its `size` clips, one and the same on all processes."""
    return _rng(seed, (epoch,)).permutation(size)


def _rng(seed: int, key: tuple[int, ...]) -> np.random.Generator:
    # A spawn key, unlike a list of seeds, keeps (1, 0) and (1,) apart.
    return np.random.Generator(np.random.PCG64(np.random.SeedSequence(seed, spawn_key=key)))


def random_window(
    num_frames: int, clip_frames: int, stride: int, rng: np.random.Generator
) -> Indices:
    """A window of consecutive frames, all starts that fit being equally likely.

    A video of 4 frames, clips of 3 frames: `[0 1 2]` or `[1 2 3]`.
    A video of 2 frames, clips of 4 frames: always `[0 1 1 1]`.

    Args:
        num_frames: Frames in the video.
        clip_frames: Frames in the clip.
        stride: Distance between neighbouring frames of the clip, in frames of the video.
        rng: Where the start is drawn from (one draw, for a short video too).

    Returns:
        int64 `(clip_frames,)`, never falling.

    Raises:
        ValueError: A count is below 1.
    """
    last_start = _last_start(num_frames, clip_frames, stride)
    start = rng.integers(last_start + 1)
    return _window(start, num_frames, clip_frames, stride)


def uniform_windows(num_frames: int, clip_frames: int, stride: int, clips: int) -> Indices:
    """Evenly spaced windows, the first at the first frame, the last flush with the last frame.

    A video of 8 frames, clips of 2 frames:
    1 clip: `[[3 4]]`, the centre; 3 clips: `[[0 1] [3 4] [6 7]]`.
    A video of 2 frames, clips of 3 frames: `[0 1 1]`, as often as asked.

    Args:
        num_frames: Frames in the video.
        clip_frames: Frames in a clip.
        stride: Distance between neighbouring frames of a clip, in frames of the video.
        clips: Number of windows; one is centred.

    Returns:
        int64 `(clips, clip_frames)`; starts are rounded to whole frames and repeat where the video
        has fewer windows than are asked for.

    Raises:
        ValueError: A count is below 1.
    """
    if clips < 1:
        raise ValueError(f"clips must be at least 1, not {clips}")
    last_start = _last_start(num_frames, clip_frames, stride)
    if clips == 1:
        starts = np.array([last_start // 2])
    else:
        # Rounded to the nearest in whole numbers: no float ties that could differ by machine.
        gaps = clips - 1
        starts = (2 * np.arange(clips, dtype=np.int64) * last_start + gaps) // (2 * gaps)
    return _window(starts[:, None], num_frames, clip_frames, stride)


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
