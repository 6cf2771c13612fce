"""A sample data set: real video files, in the layout of UCF101, whose classes differ only in time.

The videos are those of `p3d.prepare.motions`. Each appears forwards in one class, and backwards in
the partner class of the same list. Motion JPEG compresses every frame separately, so the two files
of a pair hold the same pictures in opposite order. (A codec with motion prediction would leave
traces of the order in single frames.) So a network that ignores the order is right for at most half
of every list: exactly, not on average.

Clips of a group share textures and the outline of the object. No group is in two lists.
"""

from __future__ import annotations

import io
import json
from collections.abc import Iterator, Sequence
from concurrent.futures import ProcessPoolExecutor, as_completed
from dataclasses import asdict, dataclass
from itertools import product
from multiprocessing import get_context
from pathlib import Path

import av
import numpy as np
from numpy.typing import NDArray

from p3d.data.dataset import SPLITS, Split
from p3d.data.ucf101 import LISTS
from p3d.errors import UserError, printable
from p3d.prepare.linking import remove_partial
from p3d.prepare.motions import CLASSES, render_video
from p3d.system.files import replacing, write_json, write_text
from p3d.system.machine import num_cores
from p3d.system.progress import ProgressBar
from p3d.system.signals import follow_parent

FPS = 12
MARKER = "sample.json"
"""File that marks a sample set, finished or not, and stores its `SampleSpec`."""

_BATCH = 20  # videos that a process writes at a time


@dataclass(frozen=True)
class SampleSpec:
    """Contents of a sample set. The same values give the same files.

    Attributes:
        seed: Seed of all random values.
        train_groups: Groups per class in the training list; the other lists have the next ones.
        validation_groups: Groups per class in the validation list.
        test_groups: Groups per class in the test list.
        clips_per_group: Videos per group.
    """

    seed: int = 0
    train_groups: int = 30
    validation_groups: int = 3
    test_groups: int = 10
    clips_per_group: int = 4

    def __post_init__(self) -> None:
        """Refuse numbers that do not fit into UCF101's file names."""
        counts = (self.train_groups, self.validation_groups, self.test_groups)
        if min(counts) < 1 or sum(counts) > 99 or not 1 <= self.clips_per_group <= 99:
            raise UserError(
                f"a sample set of {counts} groups (training, validation, test) with "
                f"{self.clips_per_group} clips each cannot be named like UCF101; give 1 or more of "
                "each, at most 99 groups in total and 99 clips per group"
            )
        if self.seed < 0:
            raise UserError(f"the seed is {self.seed}; give 0 or more")

    def videos(self, split: Split) -> list[SampleVideo]:
        """Return the videos of a split in the order of its list."""
        clips = range(1, self.clips_per_group + 1)
        return [
            SampleVideo(split, name, group, clip)
            for name, group, clip in product(CLASSES, self.groups(split), clips)
        ]

    def groups(self, split: Split) -> range:
        """Return the numbers of a split's groups. The splits have consecutive numbers."""
        counts = {name: getattr(self, f"{name}_groups") for name in SPLITS}
        first = 1 + sum(counts[name] for name in SPLITS[: SPLITS.index(split)])
        return range(first, first + counts[split])


@dataclass(frozen=True)
class SampleVideo:
    """One video of the sample set."""

    split: Split
    class_name: str
    group: int
    clip: int

    @property
    def list_entry(self) -> str:
        """`Class/v_Class_gGG_cCC.avi`, as in UCF101's lists."""
        name = self.class_name
        return f"{name}/v_{name}_g{self.group:02d}_c{self.clip:02d}.avi"

    @property
    def path(self) -> Path:
        """Path of the file in the folder of the sample set."""
        return Path(self.split, self.list_entry)


def encode(frames: NDArray[np.uint8]) -> bytes:
    """Compress RGB frames `(T, H, W, 3)` to an AVI file of Motion JPEG in high quality."""
    buffer = io.BytesIO()
    with av.open(buffer, "w", format="avi") as container:
        stream = container.add_stream("mjpeg", rate=FPS, options={"qmin": "3", "qmax": "3"})
        stream.height, stream.width = frames.shape[1:3]
        stream.pix_fmt = "yuvj444p"
        for frame in frames:
            container.mux(stream.encode(av.VideoFrame.from_ndarray(frame, format="rgb24")))
        container.mux(stream.encode())
    return buffer.getvalue()


@dataclass(frozen=True)
class SampleOptions:
    """Write a small data set of synthetic videos: four motions, forwards and backwards."""

    out: Path
    """Output folder, laid out like UCF101. An unfinished set is completed."""
    seed: int = 0
    """Seed of all random values."""
    workers: int | None = None
    """Processes that write; 0: none besides the main one. By default one per core."""

    def __post_init__(self) -> None:
        """Check the values."""
        if self.workers is not None and self.workers < 0:
            raise UserError(f"--workers {self.workers}: must be at least 0")


def run(options: SampleOptions) -> None:
    """Write the sample set."""
    write_sample(options.out, seed=options.seed, workers=options.workers)


def write_sample(out: Path, *, workers: int | None = None, **spec_fields: int) -> None:
    """Write the sample set in the layout of UCF101, or complete an unfinished one.

    Every file is complete or absent and the lists are written last, so an interrupted run is
    resumed by the same call.

    Args:
        out: The output folder: new, empty, or with (a part of) the same sample set.
        workers: Number of processes; 0: write in this one, None: one per core.
        **spec_fields: Fields of `SampleSpec`.

    Raises:
        UserError: The folder holds something else or cannot be written, or a number is invalid.
    """
    spec = SampleSpec(**spec_fields)
    try:
        _claim(out, spec)
        videos = [video for split in SPLITS for video in spec.videos(split)]
        missing = [video for video in videos if not (out / video.path).is_file()]
        _write_videos(out, missing, spec.seed, num_cores() if workers is None else workers)
        lists_written = _write_lists(out, spec)
    except OSError as error:
        raise UserError(
            f"{out}: the sample set cannot be written there ({error.filename or out}: "
            f"{error.strerror}); choose a writable folder on a disk with enough space"
        ) from error
    shown = printable(out)
    if missing or lists_written:
        print(f"{shown}: wrote {len(missing)} of {len(videos)} videos; the sample set is complete")
    else:
        print(f"{shown}: all {len(videos)} videos of the sample set are already there")


def _claim(out: Path, spec: SampleSpec) -> None:
    """Mark the folder as this sample set, or check that it is."""
    marker, expected = out / MARKER, asdict(spec)
    if marker.is_file():
        try:
            found = json.loads(marker.read_text(encoding="utf-8"))
        except ValueError:
            found = None
        if found != expected:
            fault = f"its {MARKER} is damaged"
            if isinstance(found, dict):
                changed = [name for name in expected if found.get(name) != expected[name]]
                fault = ", ".join(
                    f"{name.replace('_', ' ')} {found.get(name)}, not {expected[name]}"
                    for name in changed
                )
            raise UserError(
                f"{out} holds another sample set ({fault}); ask for that one, choose a new folder, "
                "or delete this one"
            )
        return
    # A killed run may have left the marker's temporary file.
    if out.is_dir() and any(not entry.name.startswith(f".{MARKER}") for entry in out.iterdir()):
        raise UserError(
            f"{out} is not empty and holds no sample set; choose a new or an empty folder"
        )
    out.mkdir(parents=True, exist_ok=True)
    write_json(marker, expected)


def _write_videos(out: Path, videos: Sequence[SampleVideo], seed: int, workers: int) -> None:
    for split in SPLITS:
        remove_partial(out / split)
    for folder in sorted({(out / video.path).parent for video in videos}):
        folder.mkdir(parents=True, exist_ok=True)
    batches = [videos[start : start + _BATCH] for start in range(0, len(videos), _BATCH)]
    with ProgressBar(len(videos), "Sample set") as progress:
        for written in _run_batches(out, batches, seed, min(workers, len(batches))):
            progress.advance(written)


def _run_batches(
    out: Path, batches: Sequence[Sequence[SampleVideo]], seed: int, workers: int
) -> Iterator[int]:
    """Write all batches in `workers` processes, and yield the size of each."""
    if workers < 2:
        yield from (_write_batch(out, batch, seed) for batch in batches)
        return
    # Spawned: a fork of a process with threads (PyTorch's, a progress bar's) may hang.
    pool = ProcessPoolExecutor(workers, get_context("spawn"), initializer=follow_parent)
    try:
        futures = [pool.submit(_write_batch, out, batch, seed) for batch in batches]
        for future in as_completed(futures):
            yield future.result()
    finally:
        pool.shutdown(cancel_futures=True)


def _write_batch(out: Path, videos: Sequence[SampleVideo], seed: int) -> int:
    for video in videos:
        frames = render_video(video.class_name, video.group, video.clip, seed)
        with replacing(out / video.path, flush=False) as temporary:
            temporary.write_bytes(encode(frames))
    return len(videos)


def _write_lists(out: Path, spec: SampleSpec) -> bool:
    """Write the missing lists of UCF101's layout, and return whether there were any."""
    labels = {name: label for label, name in enumerate(CLASSES, start=1)}
    lists = {}
    for split in SPLITS:
        # As in UCF101, test lists have no labels.
        lists[f"{split}list01.txt"] = [
            video.list_entry + ("" if split == "test" else f" {labels[video.class_name]}")
            for video in spec.videos(split)
        ]
    # The last, since a set without it is none: until then, a list may be missing.
    lists["classInd.txt"] = [f"{label} {name}" for name, label in labels.items()]
    folder = out / LISTS
    folder.mkdir(exist_ok=True)
    missing = [name for name in lists if not (folder / name).is_file()]
    for name in missing:
        write_text(folder / name, "".join(f"{line}\n" for line in lists[name]))
    return bool(missing)
