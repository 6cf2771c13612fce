"""Maps drawn over the frames of a clip, as an MP4 or as a strip of pictures."""

from __future__ import annotations

from fractions import Fraction
from pathlib import Path

import av
import numpy as np
from numpy.typing import NDArray
from PIL import Image

from p3d.system.files import replacing
from p3d.video.thumbnails import Pixels, with_caption

FPS = 5
"""Frames per second of the MP4, slow enough to follow."""

_SIDE = 256
"""Smaller frames are enlarged to about this side, in pixels, in the MP4."""
_COLUMNS = 8
"""Most frames in a strip."""


def heat_colors(heat: NDArray[np.float32]) -> NDArray[np.float32]:
    """Return colors for values in [0, 1]: blue, green, yellow, red. `(...)` to `(..., 3)`."""
    steps = np.array([0.0, 0.35, 0.65, 1.0])
    ramps = ([0, 0, 255, 255], [0, 200, 220, 0], [255, 80, 0, 0])
    colors = np.stack([np.interp(heat, steps, ramp) for ramp in ramps], -1)
    return colors.astype(np.float32)


def overlay(frames: Pixels, heat: NDArray[np.float32]) -> Pixels:
    """Draw maps over frames; the lower a value, the more of the frame shows.

    Args:
        frames: uint8 `(T, H, W, 3)`, RGB.
        heat: `(T, H, W)` in [0, 1].

    Returns:
        uint8 `(T, H, W, 3)`.
    """
    opacity = 0.65 * heat[..., None]
    mixed: Pixels = np.rint((1 - opacity) * frames + opacity * heat_colors(heat)).astype(np.uint8)
    return mixed


def write_mp4(path: Path, frames: Pixels, heat: NDArray[np.float32], captions: list[str]) -> None:
    """Write a video of the frames, and beside each the same frame under its map.

    Args:
        path: The file.
        frames: uint8 `(T, H, W, 3)`, RGB.
        heat: `(T, H, W)` in [0, 1].
        captions: A line of text for each frame.

    Raises:
        OSError: The file cannot be written.
    """
    pairs = np.concatenate([frames, overlay(frames, heat)], axis=2)
    zoom = max(1, round(_SIDE / max(frames.shape[1:3])))
    pictures = [
        _even(with_caption(_enlarged(pixels, zoom), caption))
        for pixels, caption in zip(pairs, captions, strict=True)
    ]
    codec = "libx264" if "libx264" in av.codecs_available else "mpeg4"
    with replacing(path) as temporary, av.open(str(temporary), "w", format="mp4") as container:
        stream = container.add_stream(codec, rate=FPS)
        assert isinstance(stream, av.VideoStream)
        stream.pix_fmt = "yuv420p"
        stream.width, stream.height = pictures[0].size
        for number, picture in enumerate(pictures):
            frame = av.VideoFrame.from_ndarray(np.asarray(picture))
            frame.pts, frame.time_base = number, Fraction(1, FPS)
            container.mux(stream.encode(frame))
        container.mux(stream.encode(None))


def write_strip(path: Path, frames: Pixels, heat: NDArray[np.float32], caption: str) -> None:
    """Write a PNG of evenly spaced frames, and below each the same frame under its map.

    Arguments are as for `write_mp4`, with one line of text for all.

    Raises:
        OSError: The file cannot be written.
    """
    shown = np.unique(
        np.linspace(0, len(frames) - 1, min(_COLUMNS, len(frames))).round().astype(int)
    )
    zoom = max(1, round(_SIDE / 2 / max(frames.shape[1:3])))
    pairs = np.concatenate([frames, overlay(frames, heat)], axis=1)[shown]
    columns = [_enlarged(pixels, zoom) for pixels in pairs]
    width, height = columns[0].size
    strip = Image.new("RGB", (len(columns) * (width + 2) - 2, height), "white")
    for index, column in enumerate(columns):
        strip.paste(column, (index * (width + 2), 0))
    with replacing(path) as temporary:
        with_caption(strip, caption).save(temporary, "PNG")


def _enlarged(pixels: Pixels, zoom: int) -> Image.Image:
    image = Image.fromarray(pixels)
    size = (image.width * zoom, image.height * zoom)
    return image.resize(size, Image.Resampling.BILINEAR)


def _even(image: Image.Image) -> Image.Image:
    """Pad a picture to the even size that video formats need."""
    padded = Image.new("RGB", (image.width + image.width % 2, image.height + image.height % 2))
    padded.paste(image)
    return padded
