"""Ways of loading a training clip, ours and the common one, that draw the same clips."""

from __future__ import annotations

import os
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import av
import numpy as np
import torch
from numpy.typing import NDArray
from PIL import Image
from torch import Tensor

from p3d.data.clips import read_train_clip
from p3d.data.crops import random_resized_crop_box
from p3d.data.sampling import clip_rng, random_window
from p3d.data.transforms import train_transform
from p3d.preprocessing import IMAGENET
from p3d.video.decode import open_video
from p3d.video.geometry import Box
from p3d.video.video_file import index_file

Access = Literal["random", "first"]
"""Which frames: a random window, or the first of the video."""

PREP = IMAGENET
JPEG_QUALITY = 95
SIDE = (PREP.crop, PREP.crop)
MEAN, STD = (torch.tensor(values)[:, None, None] / 255 for values in (PREP.mean, PREP.std))


@dataclass(frozen=True)
class Material:
    """The same videos as files and as folders of JPEG frames, and how many frames they have."""

    files: Sequence[Path]
    folders: Sequence[Path]
    lengths: Sequence[int]


@dataclass(frozen=True)
class Draw:
    """Which clip: video, round, and where in the video."""

    material: Material
    video: int
    turn: int
    access: Access

    def window(self) -> tuple[NDArray[np.int64], np.random.Generator]:
        """Its frames, and the randomness that is left for its box and flip."""
        rng = clip_rng(0, self.turn, self.video)
        length = self.material.lengths[self.video]
        window = random_window(length, PREP.num_frames, 1, rng)
        if self.access == "first":
            window = np.minimum(np.arange(PREP.num_frames), length - 1)
        return window, rng


def write_material(files: Sequence[Path], folder: Path) -> Material:
    """Write all frames of videos as JPEG files in full size, one folder a video."""
    folders, lengths = [], []
    for number, file in enumerate(files):
        frames = folder / f"{number:04d}"
        frames.mkdir()
        with open_video(file) as video:
            for frame, pixels in enumerate(video.read(range(video.num_frames)).numpy(), start=1):
                name = frames / f"image_{frame:05d}.jpg"
                Image.fromarray(pixels).save(name, quality=JPEG_QUALITY)
            lengths.append(video.num_frames)
        folders.append(frames)
    return Material(files, folders, lengths)


def from_file(draw: Draw) -> Tensor:
    """A clip as `TrainLoader` makes it from a video file: uint8 `(T, H, W, C)`."""
    return _ours(draw, draw.material.files[draw.video])


def from_file_first_time(draw: Draw) -> Tensor:
    """The same, of a file that this process has not seen before."""
    path = draw.material.files[draw.video]
    index_file.cache_clear()
    return _ours(draw, path)


def from_frames(draw: Draw) -> Tensor:
    """The same from a folder of JPEG frames."""
    return _ours(draw, draw.material.folders[draw.video])


def _ours(draw: Draw, path: Path) -> Tensor:
    window, rng = draw.window()
    with open_video(path) as video:
        return read_train_clip(
            video, window, PREP, augmentation="random-resized-crop", flip_probability=0.5, rng=rng
        )


def by_pillow(draw: Draw) -> Tensor:
    """The common way: frame by frame from JPEG files, float32 `(C, T, H, W)`."""
    return _by_pillow(draw, draft=False)


def by_pillow_draft(draw: Draw) -> Tensor:
    """The same, but JPEG is decoded at half, quarter or eighth size where that is enough."""
    return _by_pillow(draw, draft=True)


def _by_pillow(draw: Draw, *, draft: bool) -> Tensor:
    window, rng = draw.window()
    folder = draw.material.folders[draw.video]
    names = sorted(os.listdir(folder))  # noqa: PTH208 (as it is done)
    with Image.open(folder / names[0]) as image:
        width, height = image.size
    box = random_resized_crop_box(height, width, rng)
    flip = rng.random() < 0.5
    frames = []
    for number in window.tolist():
        with Image.open(folder / names[number]) as image:
            if draft:
                shrink = PREP.crop / min(box.width, box.height)
                image.draft("RGB", (int(width * shrink), int(height * shrink)))
            frames.append(_augment(image.convert("RGB"), box, image.width / width, flip))
    return torch.stack(frames).permute(1, 0, 2, 3)


def by_plain_av(draw: Draw) -> Tensor:
    """PyAV as its examples use it: decode from the start, RGB arrays, then our transform."""
    return _by_plain_av(draw, threads=1)


def by_threaded_av(draw: Draw) -> Tensor:
    """The same with as many decoding threads as FFmpeg likes."""
    return _by_plain_av(draw, threads=0)


def _by_plain_av(draw: Draw, *, threads: int) -> Tensor:
    window, rng = draw.window()
    wanted = set(window.tolist())
    frames: dict[int, NDArray[np.uint8]] = {}
    with av.open(str(draw.material.files[draw.video])) as container:
        context = container.streams.video[0].codec_context
        context.thread_count = threads
        context.thread_type = "AUTO" if threads == 0 else "SLICE"
        for number, frame in enumerate(container.decode(video=0)):
            if number in wanted:
                frames[number] = np.asarray(frame.to_ndarray(format="rgb24"), np.uint8)
            if number == window[-1]:
                break
    clip = torch.from_numpy(np.stack([frames[number] for number in window.tolist()]))
    return train_transform(
        clip, PREP, augmentation="random-resized-crop", flip_probability=0.5, rng=rng
    )


def _augment(image: Image.Image, box: Box, scale: float, flip: bool) -> Tensor:
    """Crop, resize, mirror, make floats of 0 to 1, normalise: as transforms on images do."""
    left, top = round(box.left * scale), round(box.top * scale)
    right, bottom = (
        round((box.left + box.width) * scale),
        round((box.top + box.height) * scale),
    )
    image = image.crop((left, top, right, bottom)).resize(SIDE, Image.Resampling.BILINEAR)
    if flip:
        image = image.transpose(Image.Transpose.FLIP_LEFT_RIGHT)
    pixels = torch.from_numpy(np.array(image)).permute(2, 0, 1).contiguous()
    return pixels.to(torch.float32).div(255).sub_(MEAN).div_(STD)
