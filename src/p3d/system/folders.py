"""Folders for results, which a command that fails at once does not leave behind."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from p3d.system.files import make_folder


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
