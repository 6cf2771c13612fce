"""What a data set is: class names and records of videos. And how folders and lists are looked at.

Each folder is listed once; nothing is asked about single files, which would take minutes on a
network drive with hundreds of thousands of videos.
"""

from __future__ import annotations

import os
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from p3d.errors import UserError

Split = Literal["train", "validation", "test"]

SPLITS: tuple[Split, ...] = ("train", "validation", "test")

VIDEO_SUFFIXES = frozenset(
    ("3gp", "avi", "flv", "m4v", "mkv", "mov", "mp4", "mpeg", "mpg", "ogv", "ts", "webm", "wmv")
)
"""What makes a file a video: the end of its name, in lower case, without the dot."""


@dataclass(frozen=True)
class VideoRecord:
    """One labelled video.

    Attributes:
        path: A video file, or a folder of JPEG frames.
        label: Place of its class among the data set's class names, from 0.
        group: What it shares with others, such as a person or a scene; "" where unknown.
        num_frames: Where a manifest says it.
        fps: Frames a second, where a manifest says it.
    """

    path: Path
    label: int
    group: str = ""
    num_frames: int | None = None
    fps: float | None = None


@dataclass(frozen=True)
class VideoDataset:
    """One split of a data set.

    Attributes:
        class_names: All classes of the data set, also those without a video in this split.
        records: The videos, in an order that depends on nothing but the data set.
        missing: Videos that are listed but not there, and were allowed to be missing.
    """

    class_names: tuple[str, ...]
    records: tuple[VideoRecord, ...]
    missing: int = 0


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


class MissingVideosError(UserError):
    """Videos that a list names are not there.

    Attributes:
        names: All of them, as the list names them; the message names three.
    """

    def __init__(self, message: str, names: Sequence[str]) -> None:
        super().__init__(message)
        self.names = tuple(names)


def check_missing(missing: Sequence[str], total: int, root: Path, allow_missing: bool) -> int:
    """Count the listed videos that are not there.

    Args:
        missing: Their names.
        total: Number of videos listed.
        root: Where they were looked for.
        allow_missing: Whether the rest will do.

    Returns:
        The number of missing videos.

    Raises:
        MissingVideosError: Videos are missing and must not be, or none is there.
    """
    if not missing or (allow_missing and len(missing) < total):
        return len(missing)
    examples = ", ".join(missing[:3]) + (", ..." if len(missing) > 3 else "")
    fact = f"{len(missing):,} of {total:,} listed videos are not under {root} ({examples})"
    if len(missing) == total:
        remedy = "put the videos there, or name the folder that holds them"
    else:
        remedy = "add them, or use those that are there with --allow-missing"
    raise MissingVideosError(f"{fact}; {remedy}", missing)
