"""Clips and videos as small images: animated GIFs, and strips of frames."""

from __future__ import annotations

import io
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageDraw
from torch import Tensor

from p3d.system.fonts import draw_text
from p3d.video.decode import open_video
from p3d.video.flow_file import motion_of

Pixels = NDArray[np.uint8]

_GIF_MILLISECONDS = 80
"""Time of a frame; GIF stores hundredths of a second."""
_GIF_SIDE = 128
"""Smaller clips are enlarged by an integer factor to about this many pixels."""
_STRIP_FRAMES = 4
_STRIP_BOX = (148, 111)
"""Width and height in pixels that each frame of a strip is scaled to fit in."""


def flow_colors(flow: Pixels) -> Pixels:
    """Return optical flow as colors: hue shows direction, saturation speed; white is no motion.

    Args:
        flow: uint8 `(..., 2)`, see `p3d.video.flow_file`.

    Returns:
        uint8 `(..., 3)`, RGB. The fastest 1 % is fully saturated.
    """
    x, y = np.moveaxis(motion_of(flow), -1, 0)
    speed = np.hypot(x, y)
    saturation = (speed / max(1.0, float(np.quantile(speed, 0.99)))).clip(0, 1)
    # Six ramps around the circle, as in HSV at full value.
    sixths = np.arctan2(y, x)[..., None] * (3 / np.pi) + np.array([0.0, 4.0, 2.0], np.float32)
    pure = (np.abs(sixths % 6 - 3) - 1).clip(0, 1)
    rgb: Pixels = (255 * (1 - saturation[..., None] * (1 - pure))).round().astype(np.uint8)
    return rgb


def as_rgb(frames: Tensor) -> Pixels:
    """Return uint8 frames `(..., C)` as RGB; optical flow (C = 2) is shown by `flow_colors`."""
    pixels: Pixels = frames.detach().cpu().numpy()
    return flow_colors(pixels) if pixels.shape[-1] == 2 else pixels


def encode_gif(clip: Tensor, caption: str = "") -> tuple[bytes, int, int]:
    """Encode a clip as an animated GIF that loops forever; a small one is enlarged.

    Args:
        clip: uint8 `(T, H, W, C)` with C 3 (RGB) or 2 (optical flow).
        caption: A line of text below the frames.

    Returns:
        The file's bytes, and the height and width of the image in pixels.
    """
    rgb = as_rgb(clip)
    height, width = rgb.shape[1:3]
    zoom = max(1, round(_GIF_SIDE / max(height, width)))
    size = (width * zoom, height * zoom)
    frames = [
        with_caption(Image.fromarray(frame).resize(size, Image.Resampling.NEAREST), caption)
        for frame in rgb
    ]
    file = io.BytesIO()
    frames[0].save(
        file, "GIF", save_all=True, append_images=frames[1:], duration=_GIF_MILLISECONDS, loop=0
    )
    return file.getvalue(), frames[0].height, frames[0].width


def with_caption(image: Image.Image, caption: str) -> Image.Image:
    """Return an image with a line of text below it; the image itself if the text is empty."""
    if not caption:
        return image
    framed = Image.new("RGB", (image.width, image.height + 16), "white")
    framed.paste(image)
    draw_text(ImageDraw.Draw(framed), (3, image.height + 1), caption, 12, "black")
    return framed


def video_strip(
    path: Path, seconds: tuple[float | None, float | None] = (None, None)
) -> Image.Image:
    """Return evenly spaced frames of a video, side by side.

    Args:
        path: A video file, a frame folder or a flow file.
        seconds: Start and end of the part to show; None where the video starts or ends.

    Raises:
        BadVideoError: The video cannot be read.
    """
    with open_video(path) as video:
        start, end = seconds
        first = 0 if start is None else int(np.searchsorted(video.times, start, "right")) - 1
        stop = video.num_frames if end is None else int(np.searchsorted(video.times, end))
        first = min(max(first, 0), video.num_frames - 1)
        middles = first + (np.arange(_STRIP_FRAMES) + 0.5) * max(stop - first, 1) / _STRIP_FRAMES
        rgb = as_rgb(video.read(middles.astype(int).tolist()))
    scale = min(_STRIP_BOX[0] / rgb.shape[2], _STRIP_BOX[1] / rgb.shape[1])
    width, height = (max(1, round(side * scale)) for side in (rgb.shape[2], rgb.shape[1]))
    strip = Image.new("RGB", (_STRIP_FRAMES * (width + 2) - 2, height), "white")
    for index, frame in enumerate(rgb):
        small = Image.fromarray(frame).resize((width, height), Image.Resampling.BILINEAR)
        strip.paste(small, (index * (width + 2), 0))
    return strip


def encode_jpeg(image: Image.Image) -> bytes:
    """Encode an image as JPEG."""
    file = io.BytesIO()
    image.save(file, "JPEG", quality=80, optimize=True)
    return file.getvalue()
