"""Folders for results: create and lock them, and leave none behind where a command fails."""

from __future__ import annotations

import errno
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from filelock import FileLock, Timeout

from p3d.errors import UserError
from p3d.system.files import delete
from p3d.system.messages import print_warning

_NO_LOCKS = {errno.ENOSYS, errno.ENOTSUP, errno.EOPNOTSUPP, errno.ENOLCK}
"""Errors of file systems without locks, such as some network drives."""


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
    except (FileExistsError, NotADirectoryError) as error:
        file = next((each for each in (folder, *folder.parents) if each.is_file()), folder)
        raise UserError(f"{file}: is a file, no folder; choose another {flag}") from error
    except OSError as error:
        raise UserError(
            f"{folder}: the folder cannot be written ({error.strerror}); choose another {flag}"
        ) from error


@contextmanager
def results_folder(folder: Path) -> Iterator[None]:
    """Create a folder; if an error ends the block before anything is in it, remove it again.

    Parents that were created go with it. To remove the lock of `lock_folder` as well, lock the
    folder within this block.

    Raises:
        UserError: It cannot be created or written.
    """
    created = [each for each in (folder, *folder.parents) if not each.exists()]
    try:
        make_folder(folder)
        yield
    except BaseException:
        with suppress(OSError):  # the first one that holds something stays, and so do its parents
            for each in created:
                each.rmdir()
        raise


@contextmanager
def only_with_results(folder: Path, has_results: Callable[[], bool]) -> Iterator[None]:
    """If an error ends the block before there are results, delete what it wrote to a folder.

    What was there before stays.

    Args:
        folder: Existing folder, which nothing else writes to meanwhile.
        has_results: Whether the block has come to something worth keeping.
    """
    before = {path.name for path in folder.iterdir()}
    try:
        yield
    except BaseException:
        if not has_results():
            for path in folder.iterdir():
                if path.name not in before:
                    delete(path)
        raise


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
