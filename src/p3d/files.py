"""Writing files whole or not at all."""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path


@contextmanager
def replacing(path: Path) -> Iterator[Path]:
    """Write a file whole or not at all: yields a temporary path that becomes `path` at the end.

    Should the block fail, the temporary file is removed and whatever stood at `path` is untouched.
    Of a process that is killed in the middle the temporary file stays; it has one name for each
    `path`, so that the next attempt takes its place. One process at a time may write `path`.

    Raises:
        OSError: The folder is not there or cannot be written, or the disk is full.
    """
    temporary = path.with_name(f".{path.name}.tmp")
    temporary.unlink(missing_ok=True)
    temporary.touch()
    permissions = temporary.stat().st_mode & 0o777
    try:
        yield temporary
        # Some libraries put a file of their own there, which nobody else may read.
        temporary.chmod(permissions)
        _flush(temporary)
        temporary.replace(path)
        _flush(path.parent)
    finally:
        temporary.unlink(missing_ok=True)


@contextmanager
def held(folder: Path) -> Iterator[bool]:
    """Hold a folder for this process alone; yields whether nobody else holds it.

    The system lets go of it when the process ends, however it does. Where the system has no such
    locks (Windows), the folder is nobody's.
    """
    try:
        import fcntl
    except ImportError:
        yield True
        return
    descriptor = os.open(folder / ".lock", os.O_RDWR | os.O_CREAT, 0o666)
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        yield False
    else:
        yield True
    finally:
        os.close(descriptor)


def _flush(path: Path) -> None:
    """Have the system write a file or a folder to the disk."""
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
