"""Listing folders of videos and reading text lists.

Each folder is listed once and single files are not checked, which would take minutes for hundreds
of thousands of videos on a network drive. What cannot be listed or read raises `UserError`.
"""

from __future__ import annotations

import os
import unicodedata
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import NamedTuple

from p3d.errors import UserError
from p3d.system.spelling import describe_unread
from p3d.video.suffixes import VIDEO_SUFFIXES


def stem_of(name: str) -> str:
    """Return a video's name without its suffix; a frame folder's whole name, including dots."""
    stem, _, suffix = name.rpartition(".")
    return stem if stem and suffix.lower() in VIDEO_SUFFIXES else name


MAX_DEPTH = 100
"""Number of nested folders that `NameFinder` searches."""


class FolderEntries(NamedTuple):
    """Names of the video files, the folders and the other files in a folder, sorted."""

    videos: list[str]
    folders: list[str]
    others: list[str]

    def frame_folders(self) -> list[str]:
        """Return the folders that may be videos; where there is a file of that name, it is used."""
        stems = {stem_of(name).lower() for name in self.videos}
        return [name for name in self.folders if name.lower() not in stems]


def list_folder(folder: Path) -> FolderEntries:
    """List the visible entries of a folder."""
    listed = FolderEntries([], [], [])
    for entry in visible_entries(folder):
        is_video = stem_of(entry.name) != entry.name
        kind = listed.videos if is_video else listed.folders if entry.is_dir() else listed.others
        kind.append(entry.name)
    for names in listed:
        names.sort()
    return listed


class ClassFolder(NamedTuple):
    """Names of the videos in a class folder, and of the files that are not videos, sorted."""

    videos: list[str]
    ignored: list[str]


def list_class(folder: Path) -> ClassFolder:
    """List the video files and frame folders in a class folder.

    If a video is there both as a file and as frames, only the file is returned.
    """
    listed = list_folder(folder)
    return ClassFolder(sorted(listed.videos + listed.frame_folders()), listed.others)


def spelling_key(name: str) -> str:
    """Return a name in one spelling: lower case, and Unicode normalization form C."""
    return (name if name.isascii() else unicodedata.normalize("NFC", name)).lower()


def find_clash(names: Iterable[str]) -> tuple[str, str] | None:
    """Return two names that are equal but for case or Unicode form, or None."""
    spelled: dict[str, str] = {}
    for name in names:
        if spelled.setdefault(spelling_key(name), name) != name:
            return spelled[spelling_key(name)], name
    return None


class NameFinder:
    """Finds files below a folder whose names are spelled differently, see `spelling_key`.

    A list may be written on a system that ignores case, or stores another Unicode form. Each folder
    is listed once.

    Args:
        root: The folder.
        stems: Whether a video's name without its suffix is enough.
    """

    def __init__(self, root: Path, *, stems: bool = False) -> None:
        self._stems = stems
        self._folders: dict[str, Path | None] = {"": root}
        self._names: dict[Path, dict[str, list[str]]] = {}

    def find(self, name: str) -> Path | None:
        """Return the file of a path like `a/b.avi`; None if there is none, or several."""
        parent, _, last = name.strip("/").rpartition("/")
        if parent.count("/") > MAX_DEPTH:
            return None
        if parent not in self._folders:
            self._folders[parent] = self.find(parent)
        folder = self._folders[parent]
        if folder is None or last in ("", "."):
            return folder
        names = self._names_in(folder).get(spelling_key(last), [])
        if last in names:
            return folder / last
        return folder / names[0] if len(names) == 1 else None

    def _names_in(self, folder: Path) -> dict[str, list[str]]:
        """Return the names in a folder by their `spelling_key`."""
        if folder not in self._names:
            names: dict[str, list[str]] = {}
            stems: dict[str, list[str]] = {}
            for name in list_names(folder):
                names.setdefault(spelling_key(name), []).append(name)
                if self._stems and stem_of(name) != name:
                    stems.setdefault(spelling_key(stem_of(name)), []).append(name)
            self._names[folder] = stems | names
        return self._names[folder]


def list_names(folder: Path) -> list[str]:
    """Return the names in a folder; none if it cannot be listed."""
    try:
        return os.listdir(folder)  # noqa: PTH208 (names, not paths, are needed)
    except OSError:
        return []


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
    """Read a text file in UTF-8. Other bytes are kept, as in the names of files (PEP 383)."""
    try:
        text = path.read_text(encoding="utf-8-sig", errors="surrogateescape")
    except OSError as error:
        raise UserError(f"{path}: {describe_unread(path, error)}") from error
    if "\0" in text:
        raise UserError(f"{path}: is not UTF-8 text; save it as UTF-8")
    return text


def numbered_lines(text: str) -> list[tuple[int, str]]:
    """Return the lines that are not blank, stripped, with their line numbers from 1."""
    # Not `splitlines`, since names may hold the other characters at which that divides.
    lines = ((number, line.strip()) for number, line in enumerate(text.split("\n"), start=1))
    return [(number, line) for number, line in lines if line]


def split_label(line: str) -> tuple[str, str]:
    """Split a line at the space or comma before the number at its end; "" if there is none."""
    head = line.rstrip("0123456789")
    if len(head) == len(line):
        return line, ""
    head = head.removesuffix("-")
    name = head.rstrip()
    if name == head and not name.endswith(","):
        return line, ""
    return name.removesuffix(",").rstrip(), line[len(head) :]


def absent(paths: Iterable[Path]) -> set[Path]:
    """Return the paths that do not exist; each parent folder is listed once."""
    paths = set(paths)
    names: dict[Path, set[str]] = {}
    for folder in {path.parent for path in paths}:
        names[folder] = set(list_names(folder))
    return {path for path in paths if path.name not in names[path.parent]}
