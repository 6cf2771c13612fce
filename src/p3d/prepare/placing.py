"""Videos that appear whole or not at all, and never disturb those they were made from."""

from __future__ import annotations

import errno
import os
import shutil
from collections.abc import Iterable
from pathlib import Path

from p3d.prepare.options import LinkMode
from p3d.system.files import TEMPORARY, replacing

_CANNOT_LINK = {errno.EXDEV, errno.EPERM, errno.ENOTSUP, errno.EMLINK, errno.EACCES, errno.ENOSYS}


def write_text(path: Path, lines: Iterable[str]) -> None:
    """Writes lines as a UTF-8 text file, whole or not at all; an equal file is left alone."""
    text = "".join(f"{line}\n" for line in lines)
    if path.is_file() and path.read_bytes() == text.encode():
        return
    with replacing(path) as temporary:
        temporary.write_text(text, encoding="utf-8", newline="\n")


def place(source: Path, target: Path, mode: LinkMode) -> LinkMode:
    """Makes `target` the same video as `source`, which stays as it is.

    Args:
        source: The existing file, or folder of frames.
        target: Where to put it; a file there is replaced, a folder is not. Its parent must exist.
        mode: How. Hard links, which a folder gets for each of its files, fall back to copies where
            the file system has none between the two.

    Returns:
        What was done: `mode`, or `"copy"` in its place.
    """
    with replacing(target, flush=False) as temporary:
        if mode == "symbolic":
            temporary.symlink_to(source.resolve())
            return mode
        if not source.is_dir():
            return _place_file(source, temporary, mode)
        temporary.mkdir()
        files = (path for path in source.iterdir() if path.is_file())
        done = {_place_file(path, temporary / path.name, mode) for path in files}
        return "copy" if "copy" in done else mode


def _place_file(source: Path, target: Path, mode: LinkMode) -> LinkMode:
    if mode == "hard":
        try:
            # A hard link to a symbolic link would break with its target's folder.
            os.link(source.resolve(), target)
            return mode
        except OSError as error:
            if error.errno not in _CANNOT_LINK:
                raise
    shutil.copy2(source, target)
    return "copy"


def same_video(target: Path, source: Path) -> bool:
    """Whether `target` already is `source`: linked, or a copy of the same size.

    Folders of frames, which appear whole, are compared by the names in them.
    """
    try:
        there, here = target.stat(), source.stat()
        if os.path.samestat(there, here):
            return True
        if source.is_dir():
            return set(_names(target)) == set(_names(source))
    except OSError:
        return False
    return there.st_size == here.st_size


def _names(folder: Path) -> list[str]:
    return os.listdir(folder)  # noqa: PTH208 (names, not paths, are wanted)


def remove_partial(folder: Path) -> int:
    """Removes what a killed run left unfinished directly under `folder` and its class folders.

    Args:
        folder: A split's folder, `train` for instance.

    Returns:
        How many were removed.
    """
    remains = [*folder.glob(f"{TEMPORARY}*"), *folder.glob(f"*/{TEMPORARY}*")]
    for path in remains:
        if path.is_dir() and not path.is_symlink():
            shutil.rmtree(path)
        else:
            path.unlink()
    return len(remains)
