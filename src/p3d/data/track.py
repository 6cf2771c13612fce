"""What clips of a video are chosen from: its frames, or the frames shown at a steady rate."""

from __future__ import annotations

import math
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from p3d.data.dataset import WHOLE, Segment, VideoRecord
from p3d.data.sampling import TOLERANCE, Indices, frames_shown
from p3d.errors import BadVideoError
from p3d.video.decode import open_video
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


def track_of(video: FrameSource, fps: float | None, segment: Segment = WHOLE) -> Track:
    """Return the track of a video, or of a segment of it, which shows at least one frame.

    A segment shows the frame at its start, and the frames that start before its end.

    Args:
        video: The video.
        fps: Rate at which its frames are picked; None for its own frames.
        segment: The part of it, see `check_segment`.
    """
    times = video.times
    if fps is None and segment == WHOLE:
        return Track(times, video.num_frames)
    start = segment.start or 0.0
    end = video.duration if segment.end is None else min(segment.end, video.duration)
    if fps is None:
        first = int(frames_shown(times, np.array(start)))
        stop = int(np.searchsorted(times, end - TOLERANCE))
        return Track(times, max(1, stop - first), first)
    # Less than a step, so that an instant at the very end, where nothing is shown, is left out.
    slack = min(TOLERANCE, 0.5 / fps)
    return Track(times, max(1, math.ceil((end - start - slack) * fps)), start=start, fps=fps)


def check_segment(path: Path | str, video: FrameSource, segment: Segment) -> None:
    """Check that a segment starts inside its video.

    Raises:
        BadVideoError: It does not.
    """
    if segment.start is not None and segment.start > video.duration - TOLERANCE:
        raise BadVideoError(
            path,
            f"its segment starts at {segment.start:g} s, but the video ends at "
            f"{video.duration:.3f} s; fix the manifest's start and end",
        )


@contextmanager
def open_record(record: VideoRecord, *, prefer_flow: bool = False) -> Iterator[FrameSource]:
    """Open the file of a record for a `with` block, see `open_video`.

    Raises:
        BadVideoError: It cannot be read, or ends before the segment starts.
    """
    with open_video(record.path, prefer_flow=prefer_flow, fps=record.fps) as video:
        check_segment(record.path, video, record.segment)
        yield video
