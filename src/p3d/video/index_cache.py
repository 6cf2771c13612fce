"""The indices of recently opened files."""

from __future__ import annotations

import os
from collections import OrderedDict
from contextlib import closing
from pathlib import Path
from threading import Lock
from typing import TypeAlias

from p3d.video.packets import open_stream
from p3d.video.video_index import VideoIndex, build_index

MAX_BYTES = 128 * 2**20
"""Limit of the indices that a process keeps: those of some 100,000 clips of ten seconds."""

# What a small index takes apart from its arrays, in bytes.
_OVERHEAD = 1024

_Key: TypeAlias = "tuple[Path, int, int, int, int, int]"


class IndexCache:
    """Indices of files, the most recently used ones; safe for threads.

    A file is indexed again if another one has taken its place (device and inode) or if it was
    changed (size, modification and change time; the last cannot be set back).
    """

    def __init__(self, max_bytes: int = MAX_BYTES) -> None:
        self._max_bytes = max_bytes
        self._bytes = 0
        self._indices: OrderedDict[_Key, VideoIndex] = OrderedDict()
        self._lock = Lock()

    def get(self, path: Path, status: os.stat_result) -> VideoIndex:
        """Return the index of a file with this status, from the cache or newly built.

        Raises:
            BadVideoError: The file cannot be read.
        """
        times = (status.st_mtime_ns, status.st_ctime_ns)
        key = (path, status.st_dev, status.st_ino, status.st_size, *times)
        with self._lock:
            if key in self._indices:
                self._indices.move_to_end(key)
                return self._indices[key]
        container, stream = open_stream(path)
        with closing(container):
            index = build_index(path, container, stream)
        with self._lock:
            if key not in self._indices:
                self._indices[key] = index
                self._bytes += _size(index)
            while self._bytes > self._max_bytes:
                self._bytes -= _size(self._indices.popitem(last=False)[1])
        return index

    def clear(self) -> None:
        """Forget all indices."""
        with self._lock:
            self._indices.clear()
            self._bytes = 0

    def __len__(self) -> int:
        return len(self._indices)


def _size(index: VideoIndex) -> int:
    order = 0 if index.order is None else index.order.nbytes
    times = 0 if index.times is None else index.times.nbytes
    return _OVERHEAD + order + times + index.seek_points.nbytes


INDICES = IndexCache()
"""The indices of this process."""
