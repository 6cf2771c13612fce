"""What a folder holds: the clips below it, by name."""

from __future__ import annotations

import os
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from p3d.data.records import stem_of
from p3d.errors import UserError


@dataclass(frozen=True)
class FolderIndex:
    """The clips of a folder.

    Attributes:
        files: The file of each clip, by its file name in small letters.
        repeated: How many further files have the name and the size of one of these.
        empty: Files of no bytes, which are not among `files`.
    """

    files: dict[str, Path]
    repeated: int
    empty: tuple[Path, ...]


def walk_videos(folder: Path, *, but: Path | None = None) -> Iterator[Path]:
    """Every video file below a folder, in sorted order; hidden and unfinished ones left out.

    Args:
        folder: Where to look, at any depth. Links to files count, links to folders do not.
        but: A folder not to look into, unless it is `folder` itself.
    """
    root = folder.resolve()
    barred = None if but is None or but.resolve() == root else but.resolve()
    for top, folders, names in os.walk(root):
        folders[:] = sorted(
            name for name in folders if name[0] != "." and Path(top, name) != barred
        )
        for name in sorted(names):
            if name[0] != "." and stem_of(name) != name:
                yield folder / Path(top, name).relative_to(root)


def index_folder(folder: Path, *, but: Path | None = None) -> FolderIndex:
    """Finds the AVI clips below a folder, wherever they lie.

    Args:
        folder: Flat, in class folders, or half prepared.
        but: A folder not to look into: the one being made.

    Raises:
        UserError: If two files of one name differ in size, so that nobody knows which is right.
    """
    files: dict[str, Path] = {}
    sizes: dict[str, int] = {}
    repeated, empty = 0, []
    for path in walk_videos(folder, but=but):
        if path.suffix.lower() != ".avi":
            continue
        try:
            size = path.stat().st_size
        except OSError:  # a link to a file that is gone
            continue
        key = path.name.lower()
        if size == 0:
            empty.append(path)
        elif key not in files:
            files[key], sizes[key] = path, size
        elif size == sizes[key]:
            repeated += 1
        else:
            raise UserError(
                f"{path}: {size:,} bytes, but {files[key]} of the same name has {sizes[key]:,}; "
                "remove the one that is wrong"
            )
    return FolderIndex(files, repeated, tuple(empty))
