"""Worker processes of loaders: start-up, signals, and messages about crashes.

A worker that is killed (out of memory, a crash in a decoder) cannot report which video it was
reading. So each worker writes the index of a video to shared memory before it opens the video.
"""

from __future__ import annotations

import math
import os
import re
import signal
import threading
import weakref
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch.utils.data import DataLoader, Dataset, get_worker_info

from p3d.data.dataset import VideoDataset, VideoRecord
from p3d.data.track import open_record
from p3d.errors import UserError, printable
from p3d.system.resources import NO_SHARED_MEMORY
from p3d.video.sources import FrameSource


class Videos:
    """The records of videos in arrays, and the video that each worker is reading.

    With a list of Python objects, reference counting would gradually copy all of them into every
    worker.

    Args:
        dataset: The videos.
        workers: Number of worker processes.
    """

    def __init__(self, dataset: VideoDataset, workers: int = 0) -> None:
        self.paths = np.array([os.fsencode(record.path) for record in dataset.records], dtype="S")
        self.labels = np.array([record.label for record in dataset.records], dtype=np.int64)
        # NaN where a value is not listed.
        self.times = np.array([(r.fps, r.start, r.end) for r in dataset.records], np.float64)
        # For each worker: process id and index of its video.
        self.readers = torch.full((workers, 2), -1, dtype=torch.int64).share_memory_()
        _OPEN.add(self)

    def __len__(self) -> int:
        return len(self.labels)

    def path(self, index: int) -> Path:
        """Return the path of a video."""
        return Path(os.fsdecode(bytes(self.paths[index])))

    def record(self, index: int) -> VideoRecord:
        """Return the record of a video, without its group and number of frames."""
        fps, start, end = (
            None if math.isnan(value) else value for value in self.times[index].tolist()
        )
        return VideoRecord(self.path(index), int(self.labels[index]), fps=fps, start=start, end=end)

    @contextmanager
    def open(self, index: int, *, prefer_flow: bool) -> Iterator[FrameSource]:
        """Open a video for a `with` block, see `open_record`, and record that it is being read.

        Workers beyond the number given, as of a user's own loader, are not recorded.
        """
        worker = get_worker_info()
        if worker is not None and worker.id < len(self.readers):
            self.readers[worker.id, 0] = os.getpid()
            self.readers[worker.id, 1] = index
        with open_record(self.record(index), prefer_flow=prefer_flow) as video:
            yield video

    def read_by(self, processes: Iterable[int]) -> list[Path]:
        """Return the last video that each of these processes claimed."""
        wanted = set(processes)
        return [self.path(index) for process, index in self.readers.tolist() if process in wanted]


_OPEN: weakref.WeakSet[Videos] = weakref.WeakSet()


def explain_death(error: RuntimeError) -> UserError | None:
    """Return a message that names the video if torch reports a dead worker, and None otherwise.

    Torch raises this error from a signal handler, at any point of the parent's code.
    """
    found = re.match(r"DataLoader worker \(pid(?:\(s\))? ([\d, ]+)\) (.*)", str(error))
    if found is None:
        return None
    processes = [int(number) for number in found[1].split(",")]
    paths = [path for videos in list(_OPEN) for path in videos.read_by(processes)]
    last = " or ".join(printable(path) for path in paths) or "before the first video"
    reason = found[2].partition(". ")[0].strip(" .").removeprefix("is ")
    if "Bus error" in reason:
        return UserError(NO_SHARED_MEMORY)
    return UserError(
        f"{last}: the worker process that read it died ({reason}); if memory ran out, use fewer "
        "--workers, otherwise remove that video"
    )


def make_loader(
    dataset: Dataset[Any],
    batches: Iterable[list[Any]],
    collate: Any,
    workers: int,
    pin_memory: bool,
) -> DataLoader[Any]:
    """Return a loader of given batches, which keeps its workers between epochs."""
    return DataLoader(
        dataset,
        batch_sampler=batches,
        collate_fn=collate,
        num_workers=workers,
        worker_init_fn=_start_worker,
        persistent_workers=workers > 0,
        pin_memory=pin_memory,
        # By default a loader draws from the global generator, whose state would then differ between
        # a run that resumed in the middle of an epoch and one that was never stopped.
        generator=torch.Generator(),
    )


def _start_worker(worker: int) -> None:
    del worker
    torch.set_num_threads(1)
    # Ctrl-C and schedulers signal all processes of a job at once, and the parent still finishes its
    # step. So a worker ignores SIGINT, and SIGTERM unless the parent sent it.
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    if hasattr(signal, "sigwaitinfo"):  # not on macOS
        signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGTERM})
        threading.Thread(target=_exit_on_sigterm_of, args=(os.getppid(),), daemon=True).start()


def _exit_on_sigterm_of(parent: int) -> None:
    while signal.sigwaitinfo({signal.SIGTERM}).si_pid != parent:
        pass
    # An exception would run clean-up code that waits for the parent to read the queue.
    os._exit(0)
