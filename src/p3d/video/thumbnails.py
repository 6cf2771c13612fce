"""Clips as small pictures for people: animated GIFs, and strips of a video's frames."""

from __future__ import annotations

import io
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageDraw, ImageFont
from torch import Tensor

from p3d.video.decode import open_video
from p3d.video.flow_file import motion_of

Pixels = NDArray[np.uint8]


def flow_colours(flow: Pixels) -> Pixels:
    """Optical flow in colour: the hue is the direction, and the faster the stronger; rest is white.

    Args:
        flow: uint8 `(..., 2)`, as `p3d.video.flow_file` stores it.

    Returns:
        uint8 `(..., 3)`, RGB. The strongest colour stands for the fastest hundredth.
    """
    x, y = np.moveaxis(motion_of(flow), -1, 0)
    speed = np.hypot(x, y)
    strength = (speed / max(1.0, float(np.quantile(speed, 0.99)))).clip(0, 1)
    # Six ramps around the circle, as in HSV at full value.
    sixths = np.arctan2(y, x)[..., None] * (3 / np.pi) + np.array([0.0, 4.0, 2.0], np.float32)
    pure = (np.abs(sixths % 6 - 3) - 1).clip(0, 1)
    rgb: Pixels = (255 * (1 - strength[..., None] * (1 - pure))).round().astype(np.uint8)
    return rgb


def as_rgb(frames: Tensor) -> Pixels:
    """Frames that can be looked at: RGB as they are, optical flow by `flow_colours`.

    Args:
        frames: uint8 `(..., C)` with C 3 or 2, on any device.
    """
    pixels: Pixels = frames.detach().cpu().numpy()
    return flow_colours(pixels) if pixels.shape[-1] == 2 else pixels


def encode_gif(
    clip: Tensor, caption: str = "", *, fps: float = 12.5, side: int = 128
) -> tuple[bytes, int, int]:
    """An animated GIF that loops for ever.

    Args:
        clip: uint8 `(T, H, W, C)` with C 3 (RGB) or 2 (optical flow).
        caption: A line under the picture.
        fps: Frames a second; GIF counts in hundredths of a second.
        side: Smaller clips are magnified by a whole number to about this many pixels.

    Returns:
        The file's bytes, its height and its width in pixels.
    """
    rgb = as_rgb(clip)
    height, width = rgb.shape[1:3]
    zoom = max(1, round(side / max(height, width)))
    size = (width * zoom, height * zoom)
    frames = [
        _with_caption(Image.fromarray(frame).resize(size, Image.Resampling.NEAREST), caption)
        for frame in rgb
    ]
    file = io.BytesIO()
    frames[0].save(
        file,
        "GIF",
        save_all=True,
        append_images=frames[1:],
        duration=round(1000 / fps),
        loop=0,
    )
    return file.getvalue(), frames[0].height, frames[0].width


def _with_caption(image: Image.Image, caption: str) -> Image.Image:
    if not caption:
        return image
    framed = Image.new("RGB", (image.width, image.height + 16), "white")
    framed.paste(image)
    # The font that comes with Pillow has no more letters than these.
    text = caption.encode("latin-1", "replace").decode("latin-1")
    place = (3, image.height + 2)
    ImageDraw.Draw(framed).text(place, text, fill="black", font=ImageFont.load_default())
    return framed


def video_strip(path: Path, *, frames: int = 4, box: tuple[int, int] = (148, 111)) -> Image.Image:
    """A few frames of a video at even distances, side by side.

    Args:
        path: A video file, a folder of frames or a file of optical flow.
        frames: How many.
        box: Width and height in pixels that a frame is made to fit in.

    Raises:
        BadVideoError: The video cannot be read.
    """
    with open_video(path) as video:
        middles = (np.arange(frames) + 0.5) * video.num_frames / frames
        rgb = as_rgb(video.read(middles.astype(int).tolist()))
    scale = min(box[0] / rgb.shape[2], box[1] / rgb.shape[1])
    width, height = (max(1, round(side * scale)) for side in (rgb.shape[2], rgb.shape[1]))
    strip = Image.new("RGB", (frames * (width + 2) - 2, height), "white")
    for place, frame in enumerate(rgb):
        small = Image.fromarray(frame).resize((width, height), Image.Resampling.BILINEAR)
        strip.paste(small, (place * (width + 2), 0))
    return strip


def encode_jpeg(image: Image.Image, quality: int = 80) -> bytes:
    """A picture as the bytes of a JPEG file."""
    file = io.BytesIO()
    image.save(file, "JPEG", quality=quality, optimize=True)
    return file.getvalue()
