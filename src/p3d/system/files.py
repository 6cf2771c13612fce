"""Writing files whole or not at all."""

from __future__ import annotations

import csv
import errno
import hashlib
import io
import json
import os
import shutil
import sys
import uuid
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager, suppress
from io import FileIO
from pathlib import Path
from typing import Any

from filelock import FileLock, Timeout

from p3d.errors import UserError, printable


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


_NO_LOCKS = {errno.ENOSYS, errno.ENOTSUP, errno.EOPNOTSUPP, errno.ENOLCK}
"""Errors of file systems without locks, such as some network drives."""


@contextmanager
def lock_folder(folder: Path) -> Iterator[None]:
    """Lock a folder for this process; the system unlocks it when the process ends, even by SIGKILL.

    On a file system without locks, print a warning and continue.

    Raises:
        UserError: Another process holds the lock, or the lock file cannot be opened.
    """
    # filelock's fallback, a lock by the existence of the file, would outlive a killed process.
    lock = FileLock(folder / ".lock", fallback_to_soft=False)
    try:
        lock.acquire(timeout=0)
    except Timeout:
        raise UserError(
            f"{folder}: another process is using this folder; wait for it to end, or choose "
            "another --out"
        ) from None
    except OSError as error:
        if error.errno not in _NO_LOCKS:
            raise UserError(
                f"{folder}: cannot be locked ({error.strerror}); choose another --out"
            ) from error
        _print_warning(f"{folder}: this file system has no locks; run only one process in it")
    try:
        yield
    finally:
        lock.release()


def _print_warning(message: str) -> None:
    with suppress(OSError):  # stderr may be on a disk that is full
        print(f"p3d: warning: {message}", file=sys.stderr, flush=True)


def _flush(path: Path) -> None:
    """Have the system write a file or a folder to the disk."""
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


class BestEffortFile:
    """Appends pieces to a file, each whole or not at all.

    A piece that cannot be written (a full disk, a network drive that is gone) is lost and costs one
    line on stderr; the next such line comes after a piece that could be written.

    Args:
        path: The file; made with the first piece.
        separator: What the first piece after a lost one begins with, should the lost one have left
            some of its bytes.
    """

    def __init__(self, path: Path, *, separator: bytes = b"") -> None:
        self.path = path
        self._separator = separator
        self._file: FileIO | None = None
        self._failing = False

    def append(self, piece: bytes) -> bool:
        """Add a piece at the end of the file; False where it is lost."""
        try:
            self._append(self._separator + piece if self._failing else piece)
        except OSError as error:
            # A handle of a network drive that came back never works again; a new one does.
            self.close()
            if not self._failing:
                reason = error.strerror or error
                _print_warning(
                    f"{printable(self.path)}: cannot be written ({reason}); going on without it"
                )
            self._failing = True
            return False
        self._failing = False
        return True

    def _append(self, piece: bytes) -> None:
        if self._file is None:
            self._file = self.path.open("ab", buffering=0)
        size = self._file.seek(0, os.SEEK_END)
        rest = memoryview(piece)
        try:
            while rest:  # a disk that is about to be full takes a part
                rest = rest[self._file.write(rest) :]
        except OSError:
            with suppress(OSError):
                self._file.truncate(size)
            raise

    def close(self) -> None:
        """Close the file; the next piece opens it again."""
        if self._file is not None:
            with suppress(OSError):
                self._file.close()
        self._file = None


TEMPORARY = ".p3d-partial-"
"""Unfinished files and folders have this in their names; readers and later runs pass them over."""


@contextmanager
def appearing(target: Path) -> Iterator[Path]:
    """Gives a temporary name beside `target`, renamed to it on success and removed on failure.

    For thousands of videos, which may be links or folders: unlike `replacing`, it does
    not wait for the disk after each.

    Args:
        target: The file or folder to be made. Its parent must exist.

    Yields:
        A path that does not exist yet.
    """
    temporary = target.with_name(f"{TEMPORARY}{uuid.uuid4().hex[:12]}-{target.name}")
    try:
        yield temporary
        temporary.replace(target)
        if temporary.is_file():
            # Renaming one hard link onto another of the same file leaves both, says POSIX.
            temporary.unlink()
    except BaseException:
        if temporary.is_dir() and not temporary.is_symlink():
            shutil.rmtree(temporary, ignore_errors=True)
        else:
            temporary.unlink(missing_ok=True)
        raise


def file_sha256(path: Path) -> str:
    """The SHA-256 of a file's contents, in hexadecimal digits."""
    digest = hashlib.sha256()
    with path.open("rb") as file:
        while chunk := file.read(2**20):
            digest.update(chunk)
    return digest.hexdigest()


def make_folder(folder: Path) -> None:
    """Make a folder, and its parents, unless it is there.

    Raises:
        UserError: It cannot be made, or written to.
    """
    try:
        folder.mkdir(parents=True, exist_ok=True)
        probe = folder / ".p3d-can-write"
        probe.touch()
        probe.unlink()
    except OSError as error:
        raise UserError(
            f"{folder}: the folder cannot be written ({error.strerror}); choose another --out"
        ) from error


def write_text(path: Path, text: str) -> None:
    """Write a file whole or not at all.

    Raises:
        UserError: It cannot be written.
    """
    try:
        with replacing(path) as temporary:
            temporary.write_text(text, encoding="utf-8")
    except OSError as error:
        raise UserError(f"{path}: cannot be written ({error.strerror})") from error


def write_json(path: Path, value: Any) -> None:
    """Write plain values as JSON, whole or not at all."""
    write_text(path, json.dumps(value, indent=2, ensure_ascii=False, default=str) + "\n")


def write_csv(path: Path, header: Sequence[str], rows: Iterable[Sequence[object]]) -> None:
    """Write a CSV file, whole or not at all."""
    text = io.StringIO(newline="")
    writer = csv.writer(text, lineterminator="\n")
    writer.writerow(header)
    writer.writerows(rows)
    write_text(path, text.getvalue())
