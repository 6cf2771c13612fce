"""Write files completely or not at all, and check what a command would write."""

from __future__ import annotations

import errno
import hashlib
import json
import os
import shutil
import tempfile
import uuid
from collections.abc import Iterable, Iterator
from contextlib import contextmanager, suppress
from functools import cache
from pathlib import Path
from typing import Any

from p3d.errors import UserError
from p3d.system.messages import print_warning

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

_SPECIAL = "is a device or a pipe, no file"

_FLUSHES_FOLDERS = os.name != "nt"


GOES_ON = "fix that, then the same command goes on"
"""Remedy of long work that could not write a file."""


@contextmanager
def writing(path: Path, remedy: str = "check the folder and its disk") -> Iterator[None]:
    """Turn an `OSError` in the block into a `UserError` about a file that cannot be written."""
    try:
        yield
    except OSError as error:
        raise UserError(f"{path}: cannot be written ({reason_of(error)}); {remedy}") from error


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
        OSError: The folder does not exist or cannot be written, the disk is full, or `path` is a
            device or a pipe.
    """
    if _is_special(path):
        raise OSError(errno.EINVAL, _SPECIAL, str(path))
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
        delete(temporary)


def delete(path: Path) -> None:
    """Delete a file, a link or a folder, if it is there."""
    if path.is_dir() and not path.is_symlink():
        shutil.rmtree(path, ignore_errors=True)
    else:
        path.unlink(missing_ok=True)


@contextmanager
def replacing_together(folder: Path, *, last: str) -> Iterator[Path]:
    """Write several files of a folder, all of them or none.

    Yield an empty folder for drafts. At the end of the block its files move to `folder`; if the
    block raises, they are deleted, and `folder` is unchanged. A message about a draft names its
    final place.

    Args:
        folder: Where the files go; it must exist.
        last: The file that shows readers that the others are complete, see `move_together`.

    Raises:
        UserError: A file cannot be written or moved.
    """
    drafts = folder / f"{TEMPORARY}files"
    try:
        shutil.rmtree(drafts, ignore_errors=True)  # what a killed process left
        drafts.mkdir()
        yield drafts
        move_together(drafts, folder, last=last)
    except UserError as error:
        raise UserError(str(error).replace(f"{drafts}{os.sep}", f"{folder}{os.sep}")) from error
    except OSError as error:
        raise UserError(
            f"{folder}: cannot be written ({reason_of(error)}); check the folder and its disk"
        ) from error
    finally:
        shutil.rmtree(drafts, ignore_errors=True)


def move_together(drafts: Path, folder: Path, *, last: str) -> None:
    """Move files to another folder of the disk, one of them after the others.

    The earlier file of that name is deleted first. So if the process is killed meanwhile, there is
    none, and old and new files never look like a complete set.

    Args:
        drafts: The folder with the new files.
        folder: Where they go; earlier files of the same names are replaced.
        last: Name of the file that moves last.

    Raises:
        OSError: A file cannot be moved.
    """
    (folder / last).unlink(missing_ok=True)
    for path in sorted(drafts.iterdir(), key=lambda path: (path.name == last, path.name)):
        path.replace(folder / path.name)
    _fsync(folder)


def _is_special(path: Path) -> bool:
    """Return whether a path is a device, a pipe or a socket, which root could replace by a file."""
    return path.exists() and not path.is_file() and not path.is_dir()


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
    with writing(target), replacing(target) as temporary:
        temporary.unlink()
        try:
            temporary.hardlink_to(source)
        except OSError:
            shutil.copyfile(source, temporary)


def write_text(path: Path, text: str) -> None:
    """Write a UTF-8 file completely or not at all.

    Bytes of file names that are not UTF-8 are written as they are ("surrogateescape").

    Raises:
        UserError: It cannot be written.
    """
    with writing(path), replacing(path) as temporary:
        temporary.write_text(text, encoding="utf-8", errors="surrogateescape", newline="\n")


def write_json(path: Path, value: Any) -> None:
    """Write a value as JSON, like `write_text`; what JSON cannot hold becomes text."""
    text = json.dumps(value, indent=2, ensure_ascii=False, default=str) + "\n"
    # Bytes of file names that are not UTF-8 become JSON escapes, such as \udcff.
    write_text(path, text.encode("utf-8", "backslashreplace").decode())


def check_place(path: Path, flag: str) -> None:
    """Check that a file can be written to a place, before hours of work.

    Args:
        path: The file.
        flag: The option that named it, for the message.

    Raises:
        UserError: It is a folder or a device, or its folder does not exist or cannot be written.
    """
    faults = {
        "is a folder": path.is_dir(),
        "its folder does not exist": not path.parent.is_dir(),
        _SPECIAL: _is_special(path),
    }
    for fault, is_so in faults.items():
        if is_so:
            raise UserError(f"{flag} {path}: {fault}; give a file in an existing folder")
    try:
        tempfile.TemporaryFile(dir=path.parent).close()
    except OSError as error:
        raise UserError(
            f"{flag} {path}: cannot be written ({error.strerror}); give a file in another folder"
        ) from error


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


def file_sha256(path: Path) -> str:
    """Return the SHA-256 of a file in hexadecimal."""
    digest = hashlib.sha256()
    with path.open("rb") as file:
        while chunk := file.read(2**20):
            digest.update(chunk)
    return digest.hexdigest()
