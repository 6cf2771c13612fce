"""A sample set: real video files, in UCF101's layout, of motions that only time tells apart.

The videos are those of `p3d.prepare.motions`: each appears once forwards, in one class, and once
backwards, in the partner class of the same list. Motion JPEG compresses every frame by itself, so
the two files of a pair hold the same pictures in opposite order, as their videos do. (A codec that
predicts frames from earlier ones would leave traces of the order in single frames.) A network
that ignores the order is thus right for at most half of every list: exactly, not on average.

Names, folders and lists are those of UCF101. The clips of a group share their textures and the
outline of their object, and no group is in two lists.
"""

from __future__ import annotations

import io
import json
import os
import signal
import threading
from collections.abc import Iterator, Sequence
from concurrent.futures import ProcessPoolExecutor, as_completed
from dataclasses import asdict, dataclass
from itertools import product
from multiprocessing import get_context, parent_process
from pathlib import Path

import av
import numpy as np
from numpy.typing import NDArray
from tqdm import tqdm

from p3d.errors import UserError
from p3d.prepare.motions import CLASSES, render_video

FPS = 12
SPLITS = ("train", "validation", "test")
LISTS_FOLDER = "ucfTrainTestlist"
MARKER = "sample.json"
"""Says that a folder is a sample set, whole or begun, and which one."""


@dataclass(frozen=True)
class SampleSpec:
    """Which videos a sample set has; the same values give the same files.

    Attributes:
        seed: Of everything random.
        train_groups: Groups of each class in the training list; the next ones follow on.
        validation_groups: Groups of each class in the validation list.
        test_groups: Groups of each class in the test list.
        clips_per_group: Videos in a group.
    """

    seed: int = 0
    train_groups: int = 30
    validation_groups: int = 3
    test_groups: int = 10
    clips_per_group: int = 4

    def __post_init__(self) -> None:
        """Refuse what UCF101's names cannot carry."""
        counts = (self.train_groups, self.validation_groups, self.test_groups)
        if min(counts) < 1 or sum(counts) > 99 or not 1 <= self.clips_per_group <= 99:
            raise UserError(
                f"a sample set of {counts} groups (training, validation, test) with "
                f"{self.clips_per_group} clips each cannot be named as UCF101's files are; take 1 "
                "or more of each, at most 99 groups in all and 99 clips a group"
            )
        if self.seed < 0:
            raise UserError(f"the seed is {self.seed}; give 0 or more")

    def videos(self, split: str) -> list[SampleVideo]:
        """The split's videos in the order of its list."""
        clips = range(1, self.clips_per_group + 1)
        return [
            SampleVideo(split, name, group, clip)
            for name, group, clip in product(CLASSES, self.groups(split), clips)
        ]

    def groups(self, split: str) -> range:
        """Numbers of the split's groups; the splits follow each other, so none shares a group."""
        counts = {name: getattr(self, f"{name}_groups") for name in SPLITS}
        first = 1 + sum(counts[name] for name in SPLITS[: SPLITS.index(split)])
        return range(first, first + counts[split])


@dataclass(frozen=True)
class SampleVideo:
    """One video's place in the sample set."""

    split: str
    class_name: str
    group: int
    clip: int

    @property
    def list_entry(self) -> str:
        """`Class/v_Class_gGG_cCC.avi`, as UCF101's lists name it."""
        name = self.class_name
        return f"{name}/v_{name}_g{self.group:02d}_c{self.clip:02d}.avi"

    @property
    def path(self) -> Path:
        """Where the file lies in the sample set's folder."""
        return Path(self.split, self.list_entry)


def encode(frames: NDArray[np.uint8]) -> bytes:
    """Compress RGB frames `(T, H, W, 3)` to an AVI file of Motion JPEG, near its best quality."""
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
    """Write a small set of synthetic videos: eight motions, each another one played backwards."""

    out: Path
    """Folder to make, laid out like UCF101. Where the set is begun already, it is finished."""
    seed: int = 0
    """Of everything that is drawn."""
    workers: int | None = None
    """Processes that write; 0 writes in this one. By default one a core."""


def run(options: SampleOptions) -> None:
    """Carry out `p3d prepare sample`."""
    write_sample(options.out, seed=options.seed, workers=options.workers)


def write_sample(
    out: Path,
    *,
    seed: int = 0,
    train_groups: int = SampleSpec.train_groups,
    validation_groups: int = SampleSpec.validation_groups,
    test_groups: int = SampleSpec.test_groups,
    clips_per_group: int = SampleSpec.clips_per_group,
    workers: int | None = None,
) -> None:
    """Write the sample set in UCF101's layout, or finish one that was begun.

    Every file appears whole or not at all, and the lists come last, so a run that was stopped is
    finished by the same call.

    Args:
        out: The set's folder; new, empty, or holding (part of) the same sample set.
        seed: Of everything random.
        train_groups: Groups of each class in the training list.
        validation_groups: Groups of each class in the validation list.
        test_groups: Groups of each class in the test list.
        clips_per_group: Videos in a group.
        workers: Processes that write; 0 writes in this one, None takes one for every core.

    Raises:
        UserError: The folder holds something else, or cannot be written to, or a count is wrong.
    """
    spec = SampleSpec(seed, train_groups, validation_groups, test_groups, clips_per_group)
    try:
        _claim(out, spec)
        videos = [video for split in SPLITS for video in spec.videos(split)]
        missing = [video for video in videos if not (out / video.path).is_file()]
        _write_videos(out, missing, seed, _core_count() if workers is None else workers)
        lists_written = _write_lists(out, spec)
    except OSError as error:
        where = error.filename or out
        raise UserError(
            f"{out}: the sample set cannot be written there ({where}: {error.strerror}); "
            "choose a folder that can be written to, on a disk with room"
        ) from error
    if missing or lists_written:
        print(f"{out}: wrote {len(missing)} of {len(videos)} videos; the sample set is complete")
    else:
        print(f"{out}: all {len(videos)} videos of the sample set are already there")


def _core_count() -> int:
    # What this process may use, which in a container is often less than what the machine has.
    affinity = getattr(os, "sched_getaffinity", None)
    return len(affinity(0)) if affinity else os.cpu_count() or 1


def _claim(out: Path, spec: SampleSpec) -> None:
    """Make the folder this sample set's own, or find that it is."""
    marker, expected = out / MARKER, asdict(spec)
    if marker.is_file():
        try:
            found = json.loads(marker.read_text(encoding="utf-8"))
        except ValueError:
            found = "unreadable"
        if found != expected:
            raise UserError(
                f"{out} holds another sample set ({MARKER}: {found}, not {expected}); "
                "ask for that one, choose a new folder, or delete this one"
            )
        return
    if out.is_dir() and any(entry.name != _partial(marker).name for entry in out.iterdir()):
        raise UserError(
            f"{out} is not empty and holds no sample set; choose a new or an empty folder"
        )
    out.mkdir(parents=True, exist_ok=True)
    _write_whole(marker, json.dumps(expected, indent=2).encode() + b"\n")


def _partial(path: Path) -> Path:
    return path.with_name(f".{path.name}.partial")


def _write_whole(path: Path, content: bytes) -> None:
    """Write a file so that it is never seen half written."""
    _partial(path).write_bytes(content)
    _partial(path).replace(path)


def _write_videos(out: Path, videos: Sequence[SampleVideo], seed: int, workers: int) -> None:
    """Render, compress and write the videos, a batch at a time, with a progress bar."""
    for folder in sorted({(out / video.path).parent for video in videos}):
        folder.mkdir(parents=True, exist_ok=True)
    size = 20
    batches = [videos[start : start + size] for start in range(0, len(videos), size)]
    with tqdm(total=len(videos), desc="sample set", unit="video", disable=None) as bar:
        for written in _run(out, batches, seed, min(workers, len(batches))):
            bar.update(written)


def _run(
    out: Path, batches: Sequence[Sequence[SampleVideo]], seed: int, workers: int
) -> Iterator[int]:
    """Write every batch, in this process or in `workers` others; yield how many videos each was."""
    if workers < 2:
        yield from (_write_batch(out, batch, seed) for batch in batches)
        return
    # Not forked: a fork of a process with threads (PyTorch's, a progress bar's) may hang.
    pool = ProcessPoolExecutor(workers, get_context("spawn"), initializer=_start_worker)
    try:
        futures = [pool.submit(_write_batch, out, batch, seed) for batch in batches]
        for future in as_completed(futures):
            yield future.result()
    finally:
        pool.shutdown(cancel_futures=True)


def _start_worker() -> None:
    """Leave Ctrl-C to the parent, and do not outlive it when it is killed."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    threading.Thread(target=_end_with_parent, daemon=True).start()


def _end_with_parent() -> None:
    parent = parent_process()
    if parent is not None:
        parent.join()
        os._exit(1)


def _write_batch(out: Path, videos: Sequence[SampleVideo], seed: int) -> int:
    for video in videos:
        frames = render_video(video.class_name, video.group, video.clip, seed)
        _write_whole(out / video.path, encode(frames))
    return len(videos)


def _write_lists(out: Path, spec: SampleSpec) -> bool:
    """Write UCF101's lists where they are missing; return whether any was."""
    labels = {name: label for label, name in enumerate(CLASSES, start=1)}
    lists = {"classInd.txt": [f"{label} {name}" for name, label in labels.items()]}
    for split in SPLITS:
        # UCF101's test lists carry no labels; the folder names say the class.
        lists[f"{split}list01.txt"] = [
            video.list_entry + ("" if split == "test" else f" {labels[video.class_name]}")
            for video in spec.videos(split)
        ]
    folder = out / LISTS_FOLDER
    missing = [name for name in lists if not (folder / name).is_file()]
    folder.mkdir(exist_ok=True)
    for name in missing:
        _write_whole(folder / name, "".join(f"{line}\n" for line in lists[name]).encode())
    return bool(missing)
