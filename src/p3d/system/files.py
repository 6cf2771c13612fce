"""Write files completely or not at all, lock folders, and append to logs on a full disk."""

from __future__ import annotations

import csv
import errno
import hashlib
import json
import os
import re
import shutil
import sys
import uuid
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager, suppress
from functools import cache
from io import FileIO
from pathlib import Path
from types import SimpleNamespace
from typing import Any

from filelock import FileLock, Timeout

from p3d.errors import UserError, printable

TEMPORARY = ".p3d-partial-"
"""Prefix of unfinished videos and folders. Readers ignore them, and later runs delete them."""

_NO_FLUSH = {
    errno.EINVAL,
    errno.ENOSYS,
    errno.ENOTSUP,
    errno.EOPNOTSUPP,
    errno.EBADF,
    errno.EACCES,
    errno.EPERM,
}
"""Errors of file systems that cannot flush a file or folder."""

_FLUSHES_FOLDERS = os.name != "nt"

_NO_LOCKS = {errno.ENOSYS, errno.ENOTSUP, errno.EOPNOTSUPP, errno.ENOLCK}
"""Errors of file systems without locks, such as some network drives."""


@contextmanager
def replacing(path: Path, *, flush: bool = True) -> Iterator[Path]:
    """Write a file completely or not at all.

    Yield a temporary path in the same folder. It is renamed to `path` at the end of the block, or
    deleted if the block raises; then `path` is unchanged.

    Args:
        path: The file to write. Its folder must exist.
        flush: Wait until the file is on the disk, so that it survives a power failure. The
            temporary file exists and is empty. Its name depends on `path` alone: what a killed
            process leaves is overwritten by the next, and two may not write `path` at a time.
            False: do not wait; for thousands of videos, links or folders. The temporary path is
            unique and does not exist yet.

    Raises:
        OSError: The folder does not exist or cannot be written, or the disk is full.
    """
    unique = f"{TEMPORARY}{uuid.uuid4().hex[:12]}-{path.name}"
    temporary = path.with_name(f".{path.name}.tmp" if flush else unique)
    mode = _create(temporary) if flush else 0
    try:
        yield temporary
        if flush:
            temporary.chmod(mode)  # safetensors puts a file there that only its owner can read
            _fsync(temporary)
        temporary.replace(path)
        if flush:
            _fsync(path.parent)
    finally:
        # After success too: renaming a hard link to another link of the same file keeps both.
        if temporary.is_dir() and not temporary.is_symlink():
            shutil.rmtree(temporary, ignore_errors=True)
        else:
            temporary.unlink(missing_ok=True)


def _create(path: Path) -> int:
    """Create an empty file, replacing another, and return its permissions."""
    path.unlink(missing_ok=True)
    path.touch()
    return path.stat().st_mode & 0o777


def _fsync(path: Path) -> None:
    """Write a file or folder from the system's cache to the disk, if its file system can do that.

    Some network and FUSE drives cannot, most often for folders. Windows never flushes folders.
    """
    is_folder = path.is_dir()
    if is_folder and not _FLUSHES_FOLDERS:
        return
    try:
        # Windows flushes only files that are open for writing.
        descriptor = os.open(path, os.O_RDONLY if is_folder else os.O_RDWR)
        try:
            os.fsync(descriptor)
        finally:
            os.close(descriptor)
    except OSError as error:
        if error.errno not in _NO_FLUSH:
            raise
        _warn_no_flush(path if is_folder else path.parent, error.strerror)


@cache
def _warn_no_flush(folder: Path, reason: str) -> None:
    """Print a warning, once for each folder."""
    print_warning(
        f"{folder}: this file system cannot flush ({reason}); a power failure may damage new files"
    )


def link_or_copy(source: Path, target: Path) -> None:
    """Make a file a second name of another, or a copy of it on file systems without hard links.

    Files that are replaced and never changed may share their contents.

    Raises:
        UserError: It cannot be written.
    """
    try:
        with replacing(target) as temporary:
            temporary.unlink()
            try:
                temporary.hardlink_to(source)
            except OSError:
                shutil.copyfile(source, temporary)
    except OSError as error:
        raise UserError(f"{target}: cannot be written ({error.strerror})") from error


def write_text(path: Path, text: str) -> None:
    """Write a UTF-8 file completely or not at all.

    Bytes of file names that are not UTF-8 are written as they are ("surrogateescape").

    Raises:
        UserError: It cannot be written.
    """
    try:
        with replacing(path) as temporary:
            temporary.write_text(text, encoding="utf-8", errors="surrogateescape", newline="\n")
    except OSError as error:
        raise UserError(f"{path}: cannot be written ({error.strerror})") from error


def write_json(path: Path, value: Any) -> None:
    """Write a value as JSON, like `write_text`; what JSON cannot hold becomes text."""
    text = json.dumps(value, indent=2, ensure_ascii=False, default=str) + "\n"
    # Bytes of file names that are not UTF-8 become JSON escapes, such as \udcff.
    write_text(path, text.encode("utf-8", "backslashreplace").decode())


def write_csv(path: Path, header: Sequence[str], rows: Iterable[Sequence[object]]) -> None:
    """Write a CSV file, like `write_text`.

    A cell that a spreadsheet would run as a formula gets an apostrophe in front, which
    `plain_cell` removes.
    """
    write_text(path, "".join(csv_line(row) for row in (header, *rows)))


def csv_line(cells: Iterable[object]) -> str:
    """Return a row of a CSV file, as `write_csv` writes it."""
    lines: list[str] = []
    # csv quotes a carriage return in a cell only if it is a part of the line terminator.
    writer = csv.writer(SimpleNamespace(write=lines.append), lineterminator="\r\n")
    writer.writerow([_safe_cell(cell) for cell in cells])
    return lines[0].removesuffix("\r\n") + "\n"


# Also cells that begin so after apostrophes, so that `plain_cell` undoes every escape.
_FORMULA = re.compile(r"'*[=+\-@\t\r]")


def _safe_cell(cell: object) -> object:
    if isinstance(cell, int | float) or not _FORMULA.match(str(cell)):
        return cell
    return f"'{cell}"


def plain_cell(cell: str) -> str:
    """Return a cell of a file of `write_csv` as it was given."""
    return cell[1:] if cell.startswith("'") and _FORMULA.match(cell) else cell


def check_place(path: Path, flag: str) -> None:
    """Check that a file can be written to a place, before hours of work.

    Args:
        path: The file.
        flag: The option that named it, for the message.

    Raises:
        UserError: It is a folder, or its folder does not exist.
    """
    if path.is_dir() or not path.parent.is_dir():
        fault = "is a folder" if path.is_dir() else "its folder does not exist"
        raise UserError(f"{flag} {path}: {fault}; give a file in an existing folder")


def check_no_input(path: Path, flag: str, inputs: Iterable[Path]) -> None:
    """Check that a file to write would not replace what a command reads.

    Raises:
        UserError: It is one of the inputs.
    """
    with suppress(OSError):  # there is no such file, or a name is too long for one
        if any(path.samefile(each) for each in inputs if os.path.exists(each)):  # noqa: PTH110
            raise UserError(
                f"{flag} {path}: is the input itself, which would be replaced; give another name"
            )


def make_folder(folder: Path, flag: str = "--out") -> None:
    """Create a folder and its parents if they do not exist.

    Args:
        folder: The folder.
        flag: The option that named it, for the message.

    Raises:
        UserError: It cannot be created or written.
    """
    try:
        folder.mkdir(parents=True, exist_ok=True)
        probe = folder / ".p3d-can-write"
        probe.touch()
        probe.unlink()
    except FileExistsError as error:
        raise UserError(f"{folder}: is a file, no folder; choose another {flag}") from error
    except OSError as error:
        raise UserError(
            f"{folder}: the folder cannot be written ({error.strerror}); choose another {flag}"
        ) from error


@contextmanager
def lock_folder(folder: Path) -> Iterator[None]:
    """Lock a folder for this process; the system unlocks it when the process ends, even by SIGKILL.

    On a file system without locks, print a warning and continue. After an error, a folder that
    holds nothing but the lock is left empty.

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
        print_warning(f"{folder}: this file system has no locks; run only one process in it")
    try:
        yield
    except BaseException:
        # Before the release, so that no other process can have locked it.
        with suppress(OSError):  # Windows removes it at the release
            if [each.name for each in folder.iterdir()] == [".lock"]:
                (folder / ".lock").unlink()
        raise
    finally:
        lock.release()


def print_warning(message: str) -> None:
    """Print a warning on stderr, on one line."""
    with suppress(OSError):  # stderr may be a file on a full disk
        print(f"p3d: warning: {printable(message)}", file=sys.stderr, flush=True)


def reason_of(error: BaseException) -> str:
    """Return why a file could not be written, in one line.

    PyTorch reports a failed write without its cause, which is the error's context.
    """
    cause: BaseException | None = error
    while cause is not None:
        if isinstance(cause, OSError) and cause.strerror:
            return cause.strerror
        cause = cause.__context__
    return (str(error) or type(error).__name__).splitlines()[0]


class BestEffortFile:
    """A file that grows by records, each written completely or not at all.

    A record that cannot be written (full disk, lost network drive) is dropped. The first of several
    dropped ones prints a warning.

    Args:
        path: The file. It is created by the first record.
        separator: Bytes written before the first record after a dropped one, in case some bytes of
            that one remain.
    """

    def __init__(self, path: Path, *, separator: bytes = b"") -> None:
        self.path = path
        self._separator = separator
        self._file: FileIO | None = None
        self._failing = False

    def append(self, record: bytes) -> bool:
        """Append a record; return whether it was written."""
        try:
            self._append(self._separator + record if self._failing else record)
        except OSError as error:
            self.close()  # the handle stays invalid when a network drive comes back
            if not self._failing:
                reason = error.strerror or error
                print_warning(f"{self.path}: cannot be written ({reason}); going on without it")
            self._failing = True
            return False
        self._failing = False
        return True

    def _append(self, record: bytes) -> None:
        if self._file is None:
            self._file = self.path.open("ab", buffering=0)
        size = self._file.seek(0, os.SEEK_END)
        rest = memoryview(record)
        try:
            while rest:  # a nearly full disk takes only a part
                rest = rest[self._file.write(rest) :]
        except OSError:
            with suppress(OSError):
                self._file.truncate(size)
            raise

    def close(self) -> None:
        """Close the file; `append` reopens it."""
        if self._file is not None:
            with suppress(OSError):
                self._file.close()
        self._file = None


def file_sha256(path: Path) -> str:
    """Return the SHA-256 of a file in hexadecimal."""
    digest = hashlib.sha256()
    with path.open("rb") as file:
        while chunk := file.read(2**20):
            digest.update(chunk)
    return digest.hexdigest()
