"""What clips of a video are chosen from: its frames, or the frames shown at a steady rate."""

from __future__ import annotations

import math
from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import NDArray

from p3d.data.sampling import TOLERANCE, Indices, frames_shown
from p3d.video.sources import FrameSource


@dataclass(frozen=True)
class Track:
    """A video as a number of steps, each of which shows a frame.

    Without a rate, a step is a frame of the video. With one, step k is the instant `k / fps`
    seconds after the start, and shows the frame of `p3d.data.sampling.frames_at`. So windows of
    steps are chosen in the same way, and a video whose rate is `fps` gives the same clips.

    Attributes:
        times: float64 `(num_frames,)`, see `FrameSource.times`.
        length: Number of steps, at least 1.
        first: First frame, if there is no rate.
        start: Time of step 0 in seconds, if there is one.
        fps: Steps per second, or None.
    """

    times: NDArray[np.float64]
    length: int
    first: int = 0
    start: float = 0.0
    fps: float | None = None

    def frames(self, steps: Indices) -> Indices:
        """Return the frames of steps, in the same shape."""
        if self.fps is None:
            return self.first + steps
        return frames_shown(self.times, self.start + steps / self.fps)

    def seconds(self, steps: Indices) -> NDArray[np.float64]:
        """Return the times of steps in seconds from the first frame of the video."""
        if self.fps is None:
            return self.times[self.first + steps]
        return self.start + steps / self.fps

    def from_frame(self, frame: int) -> Track:
        """Return the part that begins with a frame."""
        if self.fps is None:
            return replace(self, first=frame, length=self.first + self.length - frame)
        start = float(self.times[frame])
        skipped = round((start - self.start) * self.fps)
        return replace(self, start=start, length=max(1, self.length - skipped))


def track_of(video: FrameSource, fps: float | None) -> Track:
    """Return the track of a video.

    Args:
        video: The video.
        fps: Rate at which its frames are picked; None for its own frames.
    """
    if fps is None:
        return Track(video.times, video.num_frames)
    # Less than a step, so that an instant at the very end, where nothing is shown, is left out.
    slack = min(TOLERANCE, 0.5 / fps)
    length = max(1, math.ceil((video.duration - slack) * fps))
    return Track(video.times, length, fps=fps)
