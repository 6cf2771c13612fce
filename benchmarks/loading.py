"""Time the loading of training clips against the usual way.

    OMP_NUM_THREADS=1 taskset -c 0 python benchmarks/loading.py --data UCF101/videos --rounds 5

In the usual way each video is a folder of full-size JPEG frames. Each frame of a clip is opened
with Pillow, cropped, resized, flipped, converted to floats and normalized; then they are stacked.
All loaders load the same clips, in turns, round after round; the median round counts. Times are
processor time of one thread, so that other work on the machine does not count.
"""

from __future__ import annotations

import argparse
import cProfile
import os
import statistics
import tempfile
import time
import uuid
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from datetime import date
from pathlib import Path
from typing import Any, Literal

import av
import numpy as np
import PIL
import torch
from av.container import InputContainer
from numpy.typing import NDArray
from PIL import Image
from torch import Tensor
from torch.utils.data import default_collate

from p3d.data.clips import read_train_clip
from p3d.data.crops import random_resized_crop_box
from p3d.data.layouts import DataOptions, read_dataset
from p3d.data.sampling import clip_rng, random_window
from p3d.data.transforms import ClipTransform, train_transform
from p3d.prepare.folder import walk_videos
from p3d.preprocessing import IMAGENET
from p3d.system.files import write_json
from p3d.system.machine import describe_processor
from p3d.system.text import format_table
from p3d.video.decode import open_video
from p3d.video.packets import decode, demux
from p3d.video.rgb import RgbConverter, _Stack
from p3d.video.video_file import VideoFile
from p3d.video.video_index import build_index

Access = Literal["random", "first"]
"""Load a random window of frames, or the first ones of the video."""

PREP = IMAGENET
SIDE = (PREP.crop, PREP.crop)
MEAN, STD = (torch.tensor(values)[:, None, None] / 255 for values in (PREP.mean, PREP.std))
AUGMENTATION: Any = {"augmentation": "random-resized-crop", "flip_probability": 0.5}
JPEG_QUALITY = 95


@dataclass(frozen=True)
class Videos:
    """Videos as files and as folders of JPEG frames, with their numbers of frames."""

    files: Sequence[Path]
    folders: Sequence[Path]
    lengths: Sequence[int]


@dataclass(frozen=True)
class Clip:
    """A clip to load, the same for all loaders."""

    videos: Videos
    index: int
    epoch: int
    access: Access

    def draw(self) -> tuple[NDArray[np.int64], np.random.Generator]:
        """Return its frame numbers, and the generator that draws its box and flip."""
        rng = clip_rng(0, self.epoch, self.index)
        length = self.videos.lengths[self.index]
        window = random_window(length, PREP.num_frames, 1, rng)
        if self.access == "first":
            window = np.minimum(np.arange(PREP.num_frames), length - 1)
        return window, rng


@dataclass(frozen=True)
class Timing:
    """Median processor time of a loader for one clip, and of its stages under a profiler."""

    name: str
    access: Access
    seconds_per_clip: float
    stages: dict[str, float]


# Loaders


def load_video(clip: Clip) -> Tensor:
    """Load a clip from a video file like `TrainLoader`, as uint8 `(T, H, W, C)`."""
    return _load(clip, clip.videos.files[clip.index])


def load_new_video(clip: Clip) -> Tensor:
    """Load a clip from a video file under a new path, so that its index is not in memory."""
    link = clip.videos.folders[clip.index].with_name(uuid.uuid4().hex)
    link.symlink_to(clip.videos.files[clip.index].resolve())
    return _load(clip, link)


def load_frames(clip: Clip) -> Tensor:
    """Load a clip from a folder of JPEG frames like `TrainLoader`."""
    return _load(clip, clip.videos.folders[clip.index])


def _load(clip: Clip, path: Path) -> Tensor:
    window, rng = clip.draw()
    with open_video(path) as video:
        return read_train_clip(video, window, PREP, rng=rng, **AUGMENTATION)


def load_with_pillow(clip: Clip, *, draft: bool = False) -> Tensor:
    """Load a clip from JPEG frames in the usual way, as float32 `(C, T, H, W)`."""
    window, rng = clip.draw()
    folder = clip.videos.folders[clip.index]
    names = sorted(os.listdir(folder))  # noqa: PTH208 (the usual way)
    with Image.open(folder / names[0]) as image:
        width, height = image.size
    box = random_resized_crop_box(height, width, rng)
    edges = (box.left, box.top, box.left + box.width, box.top + box.height)
    flip = rng.random() < 0.5
    frames = []
    for number in window.tolist():
        with Image.open(folder / names[number]) as image:
            if draft:
                scale = PREP.crop / min(box.width, box.height)
                image.draft("RGB", (int(width * scale), int(height * scale)))
            frames.append(augment(image.convert("RGB"), edges, image.width / width, flip))
    return stack(frames)


def augment(image: Image.Image, edges: Sequence[int], scale: float, flip: bool) -> Tensor:
    """Crop, resize, flip, convert to floats and normalize one frame."""
    left, top, right, bottom = (round(edge * scale) for edge in edges)
    image = image.crop((left, top, right, bottom)).resize(SIDE, Image.Resampling.BILINEAR)
    if flip:
        image = image.transpose(Image.Transpose.FLIP_LEFT_RIGHT)
    pixels = torch.from_numpy(np.array(image)).permute(2, 0, 1).contiguous()
    return pixels.to(torch.float32).div(255).sub_(MEAN).div_(STD)


def stack(frames: list[Tensor]) -> Tensor:
    """Stack frames `(C, H, W)` to a clip `(C, T, H, W)`."""
    return torch.stack(frames).permute(1, 0, 2, 3)


def load_with_pillow_draft(clip: Clip) -> Tensor:
    """Decode JPEG at a half, quarter or eighth of its size where the crop allows it."""
    return load_with_pillow(clip, draft=True)


def load_with_av(clip: Clip, *, threads: int = 1) -> Tensor:
    """Decode a video file with PyAV from its start, then transform it like p3d."""
    window, rng = clip.draw()
    wanted = set(window.tolist())
    frames: dict[int, NDArray[np.uint8]] = {}
    with av.open(str(clip.videos.files[clip.index])) as container:
        context = container.streams.video[0].codec_context
        context.thread_count = threads
        context.thread_type = "SLICE" if threads == 1 else "AUTO"
        for number, frame in enumerate(container.decode(video=0)):
            if number in wanted:
                frames[number] = np.asarray(frame.to_ndarray(format="rgb24"), np.uint8)
            if number == window[-1]:
                break
    pixels = torch.from_numpy(np.stack([frames[number] for number in window.tolist()]))
    return train_transform(pixels, PREP, rng=rng, **AUGMENTATION)


def load_with_av_threads(clip: Clip) -> Tensor:
    """Decode with as many threads as FFmpeg chooses."""
    return load_with_av(clip, threads=0)


Loader = Callable[[Clip], Tensor]

USUAL = "JPEG frames, the usual way"
LOADERS: dict[str, Loader] = {
    USUAL: load_with_pillow,
    "JPEG frames, usual, draft decoding": load_with_pillow_draft,
    "JPEG frames, p3d": load_frames,
    "video files, plain PyAV": load_with_av,
    "video files, plain PyAV, threads": load_with_av_threads,
    "video files, p3d, first time": load_new_video,
    "video files, p3d": load_video,
}

STAGES: dict[Loader, dict[str, tuple[Any, ...]]] = {
    load_new_video: {"index": (build_index,)},
    load_video: {
        "open": (VideoFile.__init__,),
        "seek, demux": (InputContainer.seek, demux),
        "decode": (decode,),
        "to RGB": (_Stack.add, RgbConverter._convert),
        "transform": (ClipTransform.__call__,),
        "collate": (default_collate,),
    },
    load_frames: {
        "open": (Image.open,),
        "decode, to RGB": (Image.Image.convert, Image.Image.__array_interface__.fget),
        "transform": (ClipTransform.__call__,),
        "collate": (default_collate,),
    },
    load_with_pillow: {
        "open": (Image.open,),
        "decode, to RGB": (Image.Image.convert,),
        "transform": (augment,),
        "stack, collate": (stack, default_collate),
    },
}
"""The functions of a loader's stages. None calls another one of the same loader."""


# Timing


def write_frames(files: Sequence[Path], folder: Path) -> Videos:
    """Write all frames of the videos as full-size JPEG files, one folder a video."""
    folders, lengths = [], []
    for number, file in enumerate(files):
        frames = folder / f"{number:04d}"
        frames.mkdir()
        with open_video(file) as video:
            for frame, pixels in enumerate(video.read(range(video.num_frames)).numpy(), start=1):
                path = frames / f"image_{frame:05d}.jpg"
                Image.fromarray(pixels).save(path, quality=JPEG_QUALITY)
            lengths.append(video.num_frames)
        folders.append(frames)
    return Videos(files, folders, lengths)


def time_loaders(videos: Videos, rounds: int, batch_size: int) -> list[Timing]:
    """Time all loaders on a clip of each video a round."""
    timings = []
    accesses: tuple[Access, ...] = ("random", "first")
    for access in accesses:
        seconds = time_in_turns(videos, access, rounds, batch_size)
        for name, loader in LOADERS.items():
            stages = profile_stages(loader, videos) if access == "random" else {}
            timings.append(Timing(name, access, seconds[name], stages))
    return timings


def time_in_turns(videos: Videos, access: Access, rounds: int, batch: int) -> dict[str, float]:
    """Return each loader's median seconds a clip, after a warm-up round."""
    seconds: dict[str, list[float]] = {name: [] for name in LOADERS}
    indices = range(len(videos.files))
    for epoch in range(rounds + 1):
        spent = dict.fromkeys(LOADERS, 0.0)
        for start in indices[::batch]:
            for name, loader in LOADERS.items():
                started = time.process_time()
                load_batch(loader, videos, indices[start : start + batch], epoch, access)
                spent[name] += time.process_time() - started
        for name, value in spent.items():
            seconds[name].append(value / len(indices))
    return {name: statistics.median(values[1:]) for name, values in seconds.items()}


def load_batch(loader: Loader, videos: Videos, indices: range, epoch: int, access: Access) -> None:
    default_collate([loader(Clip(videos, index, epoch, access)) for index in indices])


def profile_stages(loader: Loader, videos: Videos) -> dict[str, float]:
    """Return the seconds a clip in each stage of a loader, under a profiler.

    Raises:
        RuntimeError: No function of a stage was called, so the stages are out of date.
    """
    if loader not in STAGES:
        return {}
    profile = cProfile.Profile(time.process_time)
    indices = range(len(videos.files))
    profile.runcall(load_batch, loader, videos, indices, 1, "random")
    entries = {entry.code: entry for entry in profile.getstats()}
    seconds = {}
    for stage, functions in STAGES[loader].items():
        # A C function has no code object, and cProfile names it by its text.
        codes = [getattr(function, "__code__", repr(function)) for function in functions]
        called = [entries[code].totaltime for code in codes if code in entries]
        if not called:
            raise RuntimeError(f"{loader.__name__} calls none of the functions of {stage!r}")
        seconds[stage] = sum(called) / len(indices)
    total = sum(entry.inlinetime for entry in entries.values()) / len(indices)
    return seconds | {"rest": total - sum(seconds.values())}


# Command line


def find_videos(data: Path, count: int) -> list[Path]:
    """Return up to `count` videos, evenly spaced over a folder or a manifest."""
    if data.is_dir():
        found = list(walk_videos(data))
    else:
        found = [record.path for record in read_dataset(DataOptions(data), "train").records]
    return found[:: max(1, len(found) // count)][:count]


def print_timings(timings: Sequence[Timing]) -> None:
    usual = {t.access: t.seconds_per_clip for t in timings if t.name == USUAL}
    rows = [
        (
            f"{t.name}, {t.access} frames",
            f"{1000 * t.seconds_per_clip:.1f}",
            f"{1 / t.seconds_per_clip:.1f}",
            f"{usual[t.access] / t.seconds_per_clip:.2f}",
        )
        for t in timings
    ]
    print(format_table(("", "ms/clip", "clips/s", "speed-up"), rows))
    for timing in timings:
        if timing.stages:
            parts = ", ".join(f"{name} {1000 * value:.2f}" for name, value in timing.stages.items())
            print(f"{timing.name}, profiled, ms/clip: {parts}")


def main(arguments: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--data", type=Path, required=True, help="folder of videos, or manifest")
    parser.add_argument("--videos", type=int, default=24, help="videos to load")
    parser.add_argument("--rounds", type=int, default=5, help="clips of each video to load")
    parser.add_argument("--batch-size", type=int, default=8, help="clips in a batch")
    parser.add_argument("--out", type=Path, help="JSON file for the figures")
    options = parser.parse_args(arguments)
    if min(options.videos, options.rounds, options.batch_size) < 1:
        parser.error("--videos, --rounds and --batch-size must be 1 or more")
    files = find_videos(options.data, options.videos)
    if not files:
        parser.error(f"{options.data}: holds no video files; use a folder that does")
    torch.set_num_threads(1)
    with tempfile.TemporaryDirectory(prefix="p3d-loading-") as folder:
        videos = write_frames(files, Path(folder))
        timings = time_loaders(videos, options.rounds, options.batch_size)
    size = f"{PREP.num_frames}x{PREP.crop}x{PREP.crop}"
    processor = describe_processor()
    versions = f"PyAV {av.__version__}, Pillow {PIL.__version__}, torch {torch.__version__}"
    print(f"training clips of {size}, one thread, {processor}, {versions}, {date.today()}")
    print_timings(timings)
    if options.out is not None:
        figures = {
            "date": str(date.today()),
            "processor": processor,
            "versions": versions,
            "options": vars(options),
            "timings": [asdict(timing) for timing in timings],
        }
        write_json(options.out, figures)


if __name__ == "__main__":
    main()
