"""A process with too many open files must not take its videos for bad ones."""

from __future__ import annotations

import errno
import os
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from helpers.videos import write_frames, write_video
from p3d.video.decode import read_clip

resource = pytest.importorskip("resource")


@contextmanager
def _open_files_left(count: int) -> Iterator[None]:
    """Allow this many more open files."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    held = [os.open(os.devnull, os.O_RDONLY)]
    try:
        resource.setrlimit(resource.RLIMIT_NOFILE, (held[0] + 64, hard))
        while True:
            try:
                held.append(os.open(os.devnull, os.O_RDONLY))
            except OSError:
                break
        for _ in range(count):
            os.close(held.pop())
        yield
    finally:
        for descriptor in held:
            os.close(descriptor)
        resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))


def _video(folder: Path) -> Path:
    write_video(folder / "a.avi", 4)
    return folder / "a.avi"


@pytest.mark.parametrize("write", [_video, lambda folder: write_frames(folder / "a", 4)])
def test_too_many_open_files_is_not_a_bad_video(
    write: Callable[[Path], Path], tmp_path: Path
) -> None:
    path = write(tmp_path)
    assert read_clip(path, [0]).shape[0] == 1  # also imports what is imported when it is used
    with _open_files_left(0), pytest.raises(OSError, match="oo many open files") as caught:
        read_clip(path, [0])
    assert caught.value.errno == errno.EMFILE
    with _open_files_left(1):
        assert read_clip(path, [0]).shape[0] == 1
