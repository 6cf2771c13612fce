"""Links to videos and copies of them, complete or absent. The originals are never changed."""

from __future__ import annotations

import errno
import os
import shutil
from pathlib import Path
from typing import TYPE_CHECKING

from p3d.system.files import TEMPORARY, replacing

if TYPE_CHECKING:  # its DataOptions import PyTorch, which `prepare sample` does not need
    from p3d.prepare.options import LinkMode

_CANNOT_LINK = {errno.EXDEV, errno.EPERM, errno.ENOTSUP, errno.EMLINK, errno.EACCES, errno.ENOSYS}


def link_video(source: Path, target: Path, mode: LinkMode) -> LinkMode:
    """Link or copy a video.

    Args:
        source: A file, or a folder of frames.
        target: The new path. A file there is replaced, a folder is not. Its parent must exist.
        mode: How. A folder gets a hard link for each of its files. Where the file system has no
            hard links between the two paths, files are copied.

    Returns:
        `mode`, or `"copy"` if it was impossible.
    """
    with replacing(target, flush=False) as temporary:
        if mode == "symbolic":
            temporary.symlink_to(source.resolve())
            return mode
        if not source.is_dir():
            return _link_file(source, temporary, mode)
        temporary.mkdir()
        files = (path for path in source.iterdir() if path.is_file())
        done = {_link_file(path, temporary / path.name, mode) for path in files}
        return "copy" if "copy" in done else mode


def _link_file(source: Path, target: Path, mode: LinkMode) -> LinkMode:
    if mode == "hard":
        try:
            # A hard link to a symbolic link would break when the link's target is moved.
            os.link(source.resolve(), target)
            return mode
        except OSError as error:
            if error.errno not in _CANNOT_LINK:
                raise
    shutil.copy2(source, target)
    return "copy"


def same_video(target: Path, source: Path) -> bool:
    """Return whether `target` is a link to `source`, or a file of the same size.

    Folders of frames are compared by their file names.
    """
    try:
        target_status, source_status = target.stat(), source.stat()
        if os.path.samestat(target_status, source_status):
            return True
        if source.is_dir():
            return set(_names(target)) == set(_names(source))
    except OSError:
        return False
    return target_status.st_size == source_status.st_size


def _names(folder: Path) -> list[str]:
    return os.listdir(folder)  # noqa: PTH208 (names only)


def remove_partial(folder: Path) -> None:
    """Remove the temporary files of a killed run from a folder and its direct subfolders.

    Args:
        folder: The folder of a split, such as `train`.
    """
    for path in [*folder.glob(f"{TEMPORARY}*"), *folder.glob(f"*/{TEMPORARY}*")]:
        if path.is_dir() and not path.is_symlink():
            shutil.rmtree(path)
        else:
            path.unlink()
