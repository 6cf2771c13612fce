"""`p3d bench data`: how many training clips a core loads in a second, and what the time goes into.

The yardstick is the common way: a folder of full-size JPEG frames for each video, and for each
frame of a clip one Pillow image that is opened, cropped, resized, mirrored, made a float tensor and
normalised, before all are stacked. All candidates load the same clips, in turns, round after
round; the median round counts. Times are those of the processor, not of the clock: what one core
must spend, whatever else the machine does.
"""

from __future__ import annotations

import cProfile
import os
import platform
import pstats
import statistics
import tempfile
import time
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from datetime import date
from pathlib import Path
from typing import Any

import av
import PIL
import torch
from torch import Tensor
from torch.utils.data import default_collate

from p3d.bench import loaders as ways
from p3d.bench.loaders import Access, Draw, Material
from p3d.data.layouts import DataOptions, read_dataset
from p3d.errors import UserError
from p3d.prepare.folder import walk_videos
from p3d.system.files import write_json
from p3d.system.text import format_table

Way = Callable[[Draw], Tensor]

COMMON = "JPEG frames, the common way"
WAYS: dict[str, Way] = {
    COMMON: ways.by_pillow,
    "JPEG frames, common, draft decoding": ways.by_pillow_draft,
    "JPEG frames, p3d": ways.from_frames,
    "video files, plain PyAV": ways.by_plain_av,
    "video files, plain PyAV, threads": ways.by_threaded_av,
    "video files, p3d, first time": ways.from_file_first_time,
    "video files, p3d": ways.from_file,
}

OWN, ALL = False, True
STAGES: dict[str, dict[str, dict[str, bool]]] = {
    "video files, p3d, first time": {"index": {"video_index.build_index": ALL}},
    "video files, p3d": {
        "open": {"video_file.__init__": ALL},
        "seek, demux": {
            "~.<method 'seek' of 'av.container.input.InputContainer' objects>": OWN,
            "packets.demux": ALL,
        },
        "decode": {"packets.decode": ALL},
        "to RGB": {"rgb.add": ALL, "rgb.rgb": ALL},
        "transform": {"transforms.__call__": ALL},
        "collate": {"collate.default_collate": ALL},
    },
    "JPEG frames, p3d": {
        "open": {"Image.open": ALL},
        "decode, to RGB": {
            "Image.convert": ALL,
            "decode.pieces": OWN,
            "Image.__array_interface__": ALL,
        },
        "transform": {"transforms.__call__": ALL},
        "collate": {"collate.default_collate": ALL},
    },
    COMMON: {
        "open": {"Image.open": ALL},
        "decode, to RGB": {"Image.convert": ALL},
        "transform": {"loaders._augment": ALL},
        "stack, collate": {"~.<built-in method torch.stack>": OWN},
    },
}
"""The functions whose time a stage is: their own alone, or that of all that they call too."""


@dataclass(frozen=True)
class DataBenchOptions:
    """Time the loading of training clips against the common way, on one core."""

    data: Path
    """A folder with video files at any depth, or a CSV manifest."""
    videos: int = 24
    """Videos to take, evenly over the data set."""
    rounds: int = 5
    """Times that a clip of each video is loaded; the median counts."""
    batch_size: int = 8
    """Clips that are stacked at once."""
    out: Path | None = None
    """JSON file for the figures."""


@dataclass(frozen=True)
class DataTiming:
    """The median processor time that a way takes for a clip, and the parts that it falls into."""

    name: str
    access: Access
    seconds_per_clip: float
    stages: dict[str, float]


def find_videos(options: DataBenchOptions) -> list[Path]:
    """The videos to load.

    Raises:
        UserError: There are none, or a number is below 1.
    """
    if min(options.videos, options.rounds, options.batch_size) < 1:
        raise UserError("--videos, --rounds and --batch-size must be 1 or more")
    if options.data.is_dir():
        found = list(walk_videos(options.data))
    else:
        records = read_dataset(DataOptions(options.data), "train").records
        found = [record.path for record in records]
    if not found:
        raise UserError(f"{options.data}: holds no video files; name a folder that does")
    step = max(1, len(found) // options.videos)
    return found[::step][: options.videos]


def bench_data(options: DataBenchOptions) -> list[DataTiming]:
    """Time all ways on all videos.

    Raises:
        UserError: There are no videos, or a number is below 1.
    """
    files = find_videos(options)
    torch.set_num_threads(1)
    timings = []
    with tempfile.TemporaryDirectory(prefix="p3d-bench-") as folder:
        material = ways.write_material(files, Path(folder))
        for access in ("random", "first"):
            seconds = _time_in_turns(material, access, options)
            for name, way in WAYS.items():
                stages = {}
                if access == "random" and name in STAGES:
                    stages = _stages(name, way, material)
                timings.append(DataTiming(name, access, seconds[name], stages))
    return timings


def _time_in_turns(
    material: Material, access: Access, options: DataBenchOptions
) -> dict[str, float]:
    """Median seconds a clip of each way, after a warm-up round."""
    rounds: dict[str, list[float]] = {name: [] for name in WAYS}
    videos = range(len(material.files))
    for turn in range(options.rounds + 1):
        spent = dict.fromkeys(WAYS, 0.0)
        for start in videos[:: options.batch_size]:
            for name, way in WAYS.items():
                started = time.process_time()
                _load(way, material, videos[start : start + options.batch_size], turn, access)
                spent[name] += time.process_time() - started
        for name, seconds in spent.items():
            rounds[name].append(seconds / len(videos))
    return {name: statistics.median(values[1:]) for name, values in rounds.items()}


def _load(way: Way, material: Material, videos: range, turn: int, access: Access) -> None:
    """Load a clip of each video, and stack them."""
    default_collate([way(Draw(material, video, turn, access)) for video in videos])


def _stages(name: str, way: Way, material: Material) -> dict[str, float]:
    """Seconds a clip in each stage, under a profiler, which makes all a little slower."""
    profile = cProfile.Profile(time.process_time)
    videos = range(len(material.files))
    profile.runcall(_load, way, material, videos, 1, "random")
    table: Any = pstats.Stats(profile)
    seconds: dict[tuple[str, bool], float] = {}
    for (file, _, function), (_, _, own, cumulative, _) in table.stats.items():
        for kind, value in ((OWN, own), (ALL, cumulative)):
            key = (f"{Path(file).stem}.{function}", kind)
            seconds[key] = seconds.get(key, 0.0) + value
    clips = len(videos)
    stages = {
        stage: sum(seconds.get(function, 0.0) for function in functions.items()) / clips
        for stage, functions in STAGES[name].items()
    }
    return stages | {"rest": table.total_tt / clips - sum(stages.values())}


def _rows(timings: Sequence[DataTiming]) -> list[tuple[str, ...]]:
    base = {t.access: t.seconds_per_clip for t in timings if t.name == COMMON}
    return [
        (
            f"{t.name}, {t.access} frames",
            f"{1000 * t.seconds_per_clip:.1f}",
            f"{1 / t.seconds_per_clip:.1f}",
            f"{base[t.access] / t.seconds_per_clip:.2f}",
        )
        for t in timings
    ]


def run(options: DataBenchOptions) -> None:
    """Carry out `p3d bench data`: time, print, and write what `--out` asks for."""
    timings = bench_data(options)
    size = f"{ways.PREP.num_frames}x{ways.PREP.crop}x{ways.PREP.crop}"
    versions = f"PyAV {av.__version__}, Pillow {PIL.__version__}, torch {torch.__version__}"
    print(f"training clips {size}, one core, {processor_name()}, {versions}, {date.today()}")
    header = ("", "ms a clip", "clips/s", "times common")
    print(format_table(header, _rows(timings)))
    for timing in timings:
        if timing.stages:
            parts = ", ".join(f"{name} {1000 * value:.2f}" for name, value in timing.stages.items())
            print(f"{timing.name}, profiled, ms a clip: {parts}")
    if options.out is not None:
        figures = {
            "date": str(date.today()),
            "processor": processor_name(),
            "versions": versions,
            "options": asdict(options),
            "timings": [asdict(timing) for timing in timings],
        }
        write_json(options.out, figures)


def processor_name() -> str:
    """What the processor calls itself, and how many cores this process may use."""
    name = platform.processor() or platform.machine()
    facts = Path("/proc/cpuinfo")
    if facts.is_file():
        lines = [line.partition(":") for line in facts.read_text().splitlines()]
        name = next(
            (value.strip() for key, _, value in lines if key.startswith("model name")), name
        )
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count()
    return f"{name} ({cores} cores allowed)"
