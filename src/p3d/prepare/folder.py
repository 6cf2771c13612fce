"""Search for videos in folders."""

from __future__ import annotations

import os
import re
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from p3d.data.listing import stem_of
from p3d.errors import UserError
from p3d.prepare.linking import same_video
from p3d.video.suffixes import FRAME_SUFFIXES

_CLIP = re.compile(r"_g\d+_c\d+$", re.IGNORECASE)


@dataclass(frozen=True)
class FolderIndex:
    """The clips below a folder.

    Attributes:
        clips: The file of each clip, or else its folder of frames, by file name in lower case.
        frames: The keys of `clips` that are folders of frames.
        repeated: Number of further files and folders with the same name and size as one of these.
    """

    clips: dict[str, Path]
    frames: frozenset[str]
    repeated: int

    def is_same(self, key: str, target: Path) -> bool:
        """Return whether a target is a link to a clip or a copy of it."""
        return same_video(target, self.clips[key])


def walk_videos(folder: Path) -> Iterator[Path]:
    """Yield every video file at any depth of a folder, sorted, without hidden ones.

    Links to files are followed, links to folders are not.
    """
    for parent, names in _walk(folder):
        yield from (parent / name for name in names if stem_of(name) != name)


def is_clip(name: str) -> bool:
    """Return whether a folder is named like a clip of UCF101, such as `v_Biking_g07_c02`."""
    return _CLIP.search(name) is not None


def index_folder(folder: Path, *, exclude: Path | None = None) -> FolderIndex:
    """Find clips, as AVI files or folders of frames, at any depth of a folder.

    Args:
        folder: Where to search.
        exclude: A folder to skip, unless it is `folder` itself.

    Raises:
        UserError: Two files of one name differ in size, or two folders of frames in their number.
    """
    files, frames = _Clips("bytes"), _Clips("frames")
    for parent, names in _walk(folder, exclude):
        if is_clip(parent.name):
            count = sum(name.lower().endswith(FRAME_SUFFIXES) for name in names)
            frames.add(f"{parent.name.lower()}.avi", parent, count)
        for name in names:
            if name.lower().endswith(".avi"):
                files.add(name.lower(), parent / name, _size(parent / name))
    return FolderIndex(
        clips=frames.paths | files.paths,
        frames=frozenset(frames.paths.keys() - files.paths.keys()),
        repeated=frames.repeated + files.repeated,
    )


class _Clips:
    """Clips of one kind, each once."""

    def __init__(self, unit: str) -> None:
        self.paths: dict[str, Path] = {}
        self.repeated = 0
        self._sizes: dict[str, int] = {}
        self._unit = unit

    def add(self, key: str, path: Path, size: int) -> None:
        """Add a clip, unless it is empty or repeated."""
        known = self._sizes.get(key)
        if known is None and size > 0:
            self.paths[key], self._sizes[key] = path, size
        elif known == size:
            self.repeated += 1
        elif size > 0:
            raise UserError(
                f"{path}: {size:,} {self._unit}, but {self.paths[key]} of the same name has "
                f"{known:,}; remove the wrong one"
            )


def _walk(folder: Path, exclude: Path | None = None) -> Iterator[tuple[Path, list[str]]]:
    """Yield a folder and every folder below it with its file names, without hidden ones."""
    root = folder.resolve()
    skipped = None if exclude is None or exclude.resolve() == root else exclude.resolve()
    for parent, folders, names in os.walk(root):
        folders[:] = sorted(
            name for name in folders if name[0] != "." and Path(parent, name) != skipped
        )
        yield folder / Path(parent).relative_to(root), sorted(n for n in names if n[0] != ".")


def _size(path: Path) -> int:
    """Return the size of a file in bytes, 0 for a broken link."""
    try:
        return path.stat().st_size
    except OSError:
        return 0
