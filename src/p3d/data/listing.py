"""Listing folders of videos and reading text lists.

Each folder is listed once and single files are not checked, which would take minutes for hundreds
of thousands of videos on a network drive. What cannot be listed or read raises `UserError`.
"""

from __future__ import annotations

import os
from collections.abc import Iterable, Iterator
from pathlib import Path

from p3d.errors import UserError
from p3d.video.suffixes import VIDEO_SUFFIXES


def stem_of(name: str) -> str:
    """Return a video's name without its suffix; a frame folder's whole name, including dots."""
    stem, _, suffix = name.rpartition(".")
    return stem if stem and suffix.lower() in VIDEO_SUFFIXES else name


def videos_in(folder: Path) -> list[str]:
    """Return the names of the video files and frame folders in a class folder, sorted.

    If a video is there both as a file and as frames, only the file is returned.
    """
    entries = list(visible_entries(folder))
    files = [entry.name for entry in entries if stem_of(entry.name) != entry.name]
    stems = {stem_of(name).lower() for name in files}
    others = (entry for entry in entries if stem_of(entry.name) == entry.name)
    return sorted(files + [e.name for e in others if e.is_dir() and e.name.lower() not in stems])


def subfolders(folder: Path) -> list[str]:
    """Return the names of the folders in a folder, sorted; none if it does not exist."""
    if not folder.is_dir():
        return []
    return sorted(entry.name for entry in visible_entries(folder) if entry.is_dir())


def visible_entries(folder: Path) -> Iterator[os.DirEntry[str]]:
    """Yield the entries of a folder, except hidden ones."""
    try:
        with os.scandir(folder) as entries:
            yield from (entry for entry in entries if not entry.name.startswith("."))
    except OSError as error:
        raise UserError(f"{folder}: cannot be listed ({error.strerror})") from error


def read_lines(path: Path) -> list[tuple[int, str]]:
    """Return the numbered lines of a text file, see `numbered_lines`."""
    return numbered_lines(read_text(path))


def read_text(path: Path) -> str:
    """Read a text file in UTF-8."""
    try:
        return path.read_text(encoding="utf-8-sig")
    except OSError as error:
        raise UserError(f"{path}: cannot be read ({error.strerror})") from error
    except UnicodeDecodeError as error:
        raise UserError(f"{path}: is not UTF-8 text; save it as UTF-8") from error


def numbered_lines(text: str) -> list[tuple[int, str]]:
    """Return the lines that are not blank, stripped, with their line numbers from 1."""
    lines = ((number, line.strip()) for number, line in enumerate(text.splitlines(), start=1))
    return [(number, line) for number, line in lines if line]


def absent(paths: Iterable[Path]) -> set[Path]:
    """Return the paths that do not exist; each parent folder is listed once."""
    paths = set(paths)
    names: dict[Path, set[str]] = {}
    for folder in {path.parent for path in paths}:
        try:
            names[folder] = set(os.listdir(folder))  # noqa: PTH208 (names, not paths, are needed)
        except OSError:
            names[folder] = set()
    return {path for path in paths if path.name not in names[path.parent]}
