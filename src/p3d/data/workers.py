"""Processes that load: how they start, whom they obey, and what to say when one dies.

A process that is killed from outside, as where memory runs out, or by a fault in a decoder, cannot
say what it was reading. So each writes down the number of its video before it opens it, in memory
that it shares with its parent.
"""

from __future__ import annotations

import os
import re
import signal
import threading
import weakref
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch.utils.data import DataLoader, Dataset, get_worker_info

from p3d.data.dataset import VideoDataset
from p3d.errors import UserError, printable


class Videos:
    """Paths and labels in two arrays, and which process reads which video.

    Thousands of Python objects would be copied into every worker bit by bit, as counting references
    to them touches their memory.

    Args:
        dataset: The videos.
        workers: Processes that will read them.
    """

    def __init__(self, dataset: VideoDataset, workers: int = 0) -> None:
        self.paths = np.array([os.fsencode(record.path) for record in dataset.records], dtype="S")
        self.labels = np.array([record.label for record in dataset.records], dtype=np.int64)
        # For each worker its process and its video.
        self.readers = torch.full((workers, 2), -1, dtype=torch.int64).share_memory_()
        _OPEN.add(self)

    def __len__(self) -> int:
        return len(self.labels)

    def path(self, index: int) -> Path:
        """Where a video is."""
        return Path(os.fsdecode(bytes(self.paths[index])))

    def take(self, index: int) -> Path:
        """Where a video is that this process is about to read, which is written down."""
        worker = get_worker_info()
        if worker is not None:
            self.readers[worker.id, 0] = os.getpid()
            self.readers[worker.id, 1] = index
        return self.path(index)

    def read_by(self, processes: Iterable[int]) -> list[Path]:
        """The videos that these processes took last."""
        wanted = set(processes)
        return [self.path(index) for process, index in self.readers.tolist() if process in wanted]


_OPEN: weakref.WeakSet[Videos] = weakref.WeakSet()


def explain_death(error: RuntimeError) -> UserError | None:
    """What to say of an error by which torch reports that loading processes died; None of others.

    Torch raises it wherever the parent happens to be, be that in the loader or not.
    """
    words = str(error)
    found = re.match(r"DataLoader worker \(pid(?:\(s\))? ([\d, ]+)\) (.*)", words)
    if found is None:
        return None
    processes = [int(number) for number in found[1].split(",")]
    paths = [path for videos in list(_OPEN) for path in videos.read_by(processes)]
    last = " or ".join(printable(path) for path in paths) or "before the first video"
    how = found[2].partition(". ")[0].strip(" .").removeprefix("is ")
    return UserError(
        f"{last}: the process that read it was lost ({how}); if memory ran out give fewer "
        "--workers, otherwise remove that video"
    )


def make_loader(
    dataset: Dataset[Any],
    batches: Iterable[list[Any]],
    collate: Any,
    workers: int,
    pin_memory: bool,
    *,
    persistent: bool,
) -> DataLoader[Any]:
    """A loader whose batches are given; `persistent` keeps its workers from epoch to epoch."""
    return DataLoader(
        dataset,
        batch_sampler=batches,
        collate_fn=collate,
        num_workers=workers,
        worker_init_fn=_start_worker,
        persistent_workers=persistent and workers > 0,
        pin_memory=pin_memory,
        # Without its own, a loader draws from the global generator, and a run that resumes in
        # mid-epoch would drop out other units than one that never stopped.
        generator=torch.Generator(),
    )


def _start_worker(worker: int) -> None:
    del worker
    torch.set_num_threads(1)
    # The parent decides what Ctrl-C means. A scheduler, too, may signal all processes of a job at
    # once; the parent then finishes its step. So a worker obeys nobody's SIGTERM but its parent's.
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    if hasattr(signal, "sigwaitinfo"):  # not on macOS
        signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGTERM})
        threading.Thread(target=_obey_parent, args=(os.getppid(),), daemon=True).start()


def _obey_parent(parent: int) -> None:
    while signal.sigwaitinfo({signal.SIGTERM}).si_pid != parent:
        pass
    # Not by an exception: tidying up would wait for a parent that reads no more.
    os._exit(0)
