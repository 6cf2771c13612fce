"""Whole videos read piece by piece."""

from __future__ import annotations

from collections.abc import Iterator

from p3d.data.decode import FrameSource

CHUNK_BYTES = 64 * 2**20
"""What is decoded in one go, at most, so that memory does not grow with a video's length."""


def chunks(video: FrameSource) -> Iterator[range]:
    """The numbers of all frames, in runs that together decode to `CHUNK_BYTES` at most."""
    step = max(1, CHUNK_BYTES // (3 * video.height * video.width))
    for start in range(0, video.num_frames, step):
        yield range(start, min(start + step, video.num_frames))
