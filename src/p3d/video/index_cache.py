"""The indices of recently opened files."""

from __future__ import annotations

import os
from collections import OrderedDict
from contextlib import closing
from threading import Lock
from typing import TypeAlias

from p3d.video.packets import open_stream
from p3d.video.remote import RemoteVideo, Source
from p3d.video.video_index import VideoIndex, build_index

MAX_BYTES = 128 * 2**20
"""Limit of the indices that a process keeps: those of some 100,000 clips of ten seconds."""

# What a small index takes apart from its arrays, in bytes.
_OVERHEAD = 1024

_Key: TypeAlias = "tuple[object, ...]"


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

    def get(self, source: Source, status: os.stat_result | None = None) -> VideoIndex:
        """Return the index of a file, from the cache or newly built.

        Args:
            source: The file, or where it is.
            status: The status of the file; None for an address, which tells its version itself, or
                else is indexed anew.

        Raises:
            BadVideoError: The file cannot be read.
        """
        key = _key(source, status)
        with self._lock:
            if key is not None and key in self._indices:
                self._indices.move_to_end(key)
                return self._indices[key]
        container, stream = open_stream(source)
        with closing(container):
            index = build_index(source, container, stream)
        if key is None:
            return index
        with self._lock:
            if key not in self._indices:
                self._indices[key] = index
                self._bytes += _size(index)
            self._drop_oldest()
        return index

    def limit(self, max_bytes: int) -> None:
        """Keep at most this many bytes from now on, for files that are not opened again."""
        with self._lock:
            self._max_bytes = max_bytes
            self._drop_oldest()

    def clear(self) -> None:
        """Forget all indices."""
        with self._lock:
            self._indices.clear()
            self._bytes = 0

    def __len__(self) -> int:
        return len(self._indices)

    def _drop_oldest(self) -> None:
        while self._bytes > self._max_bytes:
            self._bytes -= _size(self._indices.popitem(last=False)[1])


def _key(source: Source, status: os.stat_result | None) -> _Key | None:
    if isinstance(source, RemoteVideo):
        return None if source.version is None else (str(source), source.size, source.version)
    assert status is not None
    times = (status.st_mtime_ns, status.st_ctime_ns)
    return (source, status.st_dev, status.st_ino, status.st_size, *times)


def _size(index: VideoIndex) -> int:
    order = 0 if index.order is None else index.order.nbytes
    times = 0 if index.times is None else index.times.nbytes
    return _OVERHEAD + order + times + index.seek_points.nbytes


INDICES = IndexCache()
"""The indices of this process."""
