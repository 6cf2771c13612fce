"""What a folder holds: the clips below it, by name."""

from __future__ import annotations

import os
import re
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from p3d.data.listing import stem_of
from p3d.errors import UserError

FRAME_SUFFIXES = (".jpg", ".jpeg", ".png")

_CLIP = re.compile(r"_g\d+_c\d+$", re.IGNORECASE)


@dataclass(frozen=True)
class FolderIndex:
    """The clips of a folder.

    Attributes:
        files: The file of each clip, or the folder of its frames where there is no file, by the
            file's name in small letters.
        frames: The names of those that are folders of frames.
        repeated: How many further files, or folders, have the name and the size of one of these.
    """

    files: dict[str, Path]
    frames: frozenset[str]
    repeated: int


def walk_videos(folder: Path, *, but: Path | None = None) -> Iterator[Path]:
    """Every video file below a folder, in sorted order; hidden and unfinished ones left out.

    Args:
        folder: Where to look, at any depth. Links to files count, links to folders do not.
        but: A folder not to look into, unless it is `folder` itself.
    """
    for top, names in _walk(folder, but):
        yield from (top / name for name in names if stem_of(name) != name)


def is_clip(name: str) -> bool:
    """Whether a folder is named like a clip of UCF101, `v_Biking_g07_c02`."""
    return _CLIP.search(name) is not None


def index_folder(folder: Path, *, but: Path | None = None) -> FolderIndex:
    """Finds the AVI clips below a folder, and clips that are folders of frames, wherever they lie.

    Args:
        folder: Flat, in class folders, or half prepared.
        but: A folder not to look into: the one being made.

    Raises:
        UserError: If two files of one name differ in size, so that nobody knows which is right, or
            two folders of frames in their number.
    """
    files, frames = _Shelf("bytes"), _Shelf("frames")
    for top, names in _walk(folder, but):
        if is_clip(top.name):
            count = sum(name.lower().endswith(FRAME_SUFFIXES) for name in names)
            frames.put(f"{top.name.lower()}.avi", top, count)
        for name in names:
            if name.lower().endswith(".avi"):
                files.put(name.lower(), top / name, _size(top / name))
    return FolderIndex(
        files=frames.paths | files.paths,
        frames=frozenset(frames.paths.keys() - files.paths.keys()),
        repeated=frames.repeated + files.repeated,
    )


class _Shelf:
    """Clips of one kind by name, each once."""

    def __init__(self, unit: str) -> None:
        self.paths: dict[str, Path] = {}
        self.repeated = 0
        self._sizes: dict[str, int] = {}
        self._unit = unit

    def put(self, key: str, path: Path, size: int) -> None:
        """Takes a clip in, unless it is empty or was there already.

        Raises:
            UserError: If the one that was there is of another size.
        """
        known = self._sizes.get(key)
        if known is None and size > 0:
            self.paths[key], self._sizes[key] = path, size
        elif known == size:
            self.repeated += 1
        elif size > 0:
            raise UserError(
                f"{path}: {size:,} {self._unit}, but {self.paths[key]} of the same name has "
                f"{known:,}; remove the one that is wrong"
            )


def _walk(folder: Path, but: Path | None) -> Iterator[tuple[Path, list[str]]]:
    """Every folder below one, itself included, with the names of its files; nothing hidden."""
    root = folder.resolve()
    barred = None if but is None or but.resolve() == root else but.resolve()
    for top, folders, names in os.walk(root):
        folders[:] = sorted(
            name for name in folders if name[0] != "." and Path(top, name) != barred
        )
        yield folder / Path(top).relative_to(root), sorted(n for n in names if n[0] != ".")


def _size(path: Path) -> int:
    """The size of a file in bytes; 0 for a link to a file that is gone."""
    try:
        return path.stat().st_size
    except OSError:
        return 0
