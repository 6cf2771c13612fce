"""How folders and lists of videos are looked at."""

from __future__ import annotations

import os
from collections.abc import Iterator, Sequence
from pathlib import Path

from p3d.errors import UserError

VIDEO_SUFFIXES = frozenset(
    ("3gp", "avi", "flv", "m4v", "mkv", "mov", "mp4", "mpeg", "mpg", "ogv", "ts", "webm", "wmv")
)
"""What makes a file a video: the end of its name, in lower case, without the dot."""


def stem_of(name: str) -> str:
    """A video's name without its suffix; the whole name of a frame folder, dots included."""
    stem, _, suffix = name.rpartition(".")
    return stem if stem and suffix.lower() in VIDEO_SUFFIXES else name


def videos_in(folder: Path) -> list[str]:
    """Names of the video files and frame folders in a class folder, sorted.

    Where a video lies there both as a file and as frames, the file is taken.

    Raises:
        UserError: The folder cannot be listed.
    """
    entries = list(visible_entries(folder))
    files = [entry.name for entry in entries if stem_of(entry.name) != entry.name]
    stems = {stem_of(name).lower() for name in files}
    others = (entry for entry in entries if stem_of(entry.name) == entry.name)
    return sorted(files + [e.name for e in others if e.is_dir() and e.name.lower() not in stems])


def subfolders(folder: Path) -> list[str]:
    """Names of the folders in a folder, sorted; none where there is no such folder.

    Raises:
        UserError: The folder cannot be listed.
    """
    if not folder.is_dir():
        return []
    return sorted(entry.name for entry in visible_entries(folder) if entry.is_dir())


def visible_entries(folder: Path) -> Iterator[os.DirEntry[str]]:
    """What lies in a folder, hidden names left out.

    Raises:
        UserError: The folder cannot be listed.
    """
    try:
        with os.scandir(folder) as entries:
            yield from (entry for entry in entries if not entry.name.startswith("."))
    except OSError as error:
        raise UserError(f"{folder}: cannot be listed ({error.strerror})") from error


def read_lines(path: Path) -> list[tuple[int, str]]:
    """The lines of a text file that are not blank, stripped, with their numbers from 1.

    Raises:
        UserError: The file is absent or is no text.
    """
    return numbered_lines(read_text(path))


def read_text(path: Path) -> str:
    """A text file in UTF-8.

    Raises:
        UserError: The file is absent or is no text.
    """
    try:
        return path.read_text(encoding="utf-8-sig")
    except OSError as error:
        raise UserError(f"{path}: cannot be read ({error.strerror})") from error
    except UnicodeDecodeError as error:
        raise UserError(f"{path}: is not UTF-8 text; save it as such") from error


def numbered_lines(text: str) -> list[tuple[int, str]]:
    """The lines of a text that are not blank, stripped, with their numbers from 1."""
    lines = ((number, line.strip()) for number, line in enumerate(text.splitlines(), start=1))
    return [(number, line) for number, line in lines if line]


def absent(paths: Sequence[Path]) -> set[Path]:
    """Those of the paths where nothing lies."""
    names: dict[Path, set[str]] = {}
    for folder in {path.parent for path in paths}:
        try:
            names[folder] = set(os.listdir(folder))  # noqa: PTH208 (names, not paths, are wanted)
        except OSError:
            names[folder] = set()
    return {path for path in paths if path.name not in names[path.parent]}
