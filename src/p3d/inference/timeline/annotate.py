"""A copy of a video with the labels of its segments drawn in."""

from __future__ import annotations

import math
from collections.abc import Sequence
from fractions import Fraction
from functools import lru_cache
from pathlib import Path

import av
import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageDraw

from p3d.errors import UserError
from p3d.inference.timeline.segments import Segment
from p3d.inference.timeline.timeline import Timeline
from p3d.system.files import replacing
from p3d.system.fonts import draw_text, text_width
from p3d.system.progress import ProgressBar
from p3d.system.text import format_percent
from p3d.video.stream import stream_file

_TICKS = 60_000
"""Ticks of a second: frames at 24, 25, 30, 50 and 60 per second, and NTSC's, fall on them."""
_LINES_OF_TEXT = 16
"""Lines of text that fit into the height of a frame, unless they are less than 12 pixels high."""


def write_annotated(path: Path, timeline: Timeline) -> None:
    """Write an MP4 of a video, in which each segment shows its class and its score.

    The video is decoded once more. Frames keep their times and their size, except that an odd side
    gets a line of black pixels. Sound is left out.

    Args:
        path: The file.
        timeline: The timeline of a video file.

    Raises:
        BadVideoError: The video cannot be read.
        UserError: The file cannot be written.
    """
    assert isinstance(timeline.path, Path), "the command checks it"
    codec = "libx264" if "libx264" in av.codecs_available else "mpeg4"
    try:
        with (
            stream_file(timeline.path) as source,
            replacing(path) as temporary,
            av.open(str(temporary), "w", format="mp4") as target,
            ProgressBar(round(timeline.duration), path.name, "s", leave=False) as bar,
        ):
            stream = target.add_stream(
                codec, rate=Fraction(source.clock.rate).limit_denominator(1001)
            )
            assert isinstance(stream, av.VideoStream)
            stream.pix_fmt = "yuv420p"
            stream.height, stream.width = (n + n % 2 for n in (source.height, source.width))
            stream.codec_context.time_base = Fraction(1, _TICKS)
            stamp, done = -1, 0
            for time, frame in source:
                pixels = _drawn(source.rgb(frame)[0].numpy(), _shown(timeline.segments, time))
                picture = av.VideoFrame.from_ndarray(pixels)
                stamp = max(stamp + 1, round(time * _TICKS))
                picture.pts, picture.time_base = stamp, Fraction(1, _TICKS)
                target.mux(stream.encode(picture))
                bar.advance(int(time) - done)
                done = int(time)
            target.mux(stream.encode(None))
    except OSError as error:  # FFmpeg's errors are such, too
        raise UserError(f"{path}: cannot be written ({error.strerror})") from error


def _shown(segments: Sequence[Segment], time: float) -> tuple[str, ...]:
    """Return the lines of text at a time."""
    return tuple(
        f"{segment.label} {format_percent(segment.score)}"
        for segment in segments
        if segment.start <= time < segment.end
    )


def _drawn(pixels: NDArray[np.uint8], lines: tuple[str, ...]) -> NDArray[np.uint8]:
    """Return a frame of even sides with text in its upper left corner."""
    height, width = pixels.shape[:2]
    frame = np.zeros((height + height % 2, width + width % 2, 3), np.uint8)
    frame[:height, :width] = pixels
    if lines:
        text = _text(lines, max(12, height // _LINES_OF_TEXT))
        rows, columns = min(height, text.shape[0]), min(width, text.shape[1])
        frame[:rows, :columns] = text[:rows, :columns]
    return frame


@lru_cache(maxsize=64)
def _text(lines: tuple[str, ...], size: int) -> NDArray[np.uint8]:
    """Return white text of a size in pixels on black: uint8 `(h, w, 3)`."""
    margin, height = size // 6, round(1.3 * size)
    width = math.ceil(max(text_width(line, size) for line in lines))
    image = Image.new("RGB", (width + 2 * margin, len(lines) * height + 2 * margin))
    draw = ImageDraw.Draw(image)
    for number, line in enumerate(lines):
        draw_text(draw, (margin, margin // 2 + number * height), line, size, "white")
    return np.asarray(image)
