"""Records of videos, the splits of a data set, and errors about missing videos."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import cached_property
from pathlib import Path
from typing import Literal, NamedTuple

from p3d.errors import UserError, printable

Split = Literal["train", "validation", "test"]

SPLITS: tuple[Split, ...] = ("train", "validation", "test")

Part = Split | None
"""A part of a data set: a split, or the videos that are in none."""

SPLIT_NAMES: dict[str, Split] = {
    "train": "train",
    "training": "train",
    "val": "validation",
    "valid": "validation",
    "validate": "validation",
    "validation": "validation",
    "test": "test",
    "testing": "test",
}
"""The splits by the names that data sets give them, in lower case."""

UNLABELED = -1
"""Label of a video whose class is not known."""


class Segment(NamedTuple):
    """A part of a video.

    Attributes:
        start: Where it starts, in seconds from the first frame; None at the first frame.
        end: Where it ends, in the same seconds; None at the end of the video.
    """

    start: float | None = None
    end: float | None = None


WHOLE = Segment()
"""All of a video."""


@dataclass(frozen=True)
class VideoRecord:
    """One video of a data set, or a segment of a longer one.

    Attributes:
        path: A video file, or a folder of frames.
        label: Index of its class in the data set's class names, or `UNLABELED`.
        group: What it shares with other videos, such as a person or a scene; "" if unknown.
        num_frames: Number of frames, if a manifest states it.
        fps: Frame rate in frames per second, if a manifest states it.
        start: Start of the segment in seconds from the first frame; None at the first frame.
        end: End of the segment; None at the end of the video.
    """

    path: Path
    label: int
    group: str = ""
    num_frames: int | None = None
    fps: float | None = None
    start: float | None = None
    end: float | None = None

    @property
    def segment(self) -> Segment:
        """The part of the file that it is."""
        return Segment(self.start, self.end)

    @property
    def fragment(self) -> str:
        """What follows the path in `name`: `#t=12.5,20` for a segment, else ""."""
        if self.segment == WHOLE:
            return ""
        start, end = ("" if time is None else f"{time:.12g}" for time in self.segment)
        return f"#t={start},{end}" if end else f"#t={start}"

    @property
    def short_name(self) -> str:
        """`name` without the folders."""
        return f"{self.path.name}{self.fragment}"

    @property
    def name(self) -> str:
        """The path, with the times of a segment as in a URL: unlike the path, each only once."""
        return f"{self.path}{self.fragment}"


_FRAGMENT = re.compile(r"#t=(\d[^,/]*)?(?:,(\d[^,/]*))?")


def parse_name(name: str) -> tuple[str, Segment]:
    """Return path and segment of a `VideoRecord.name`."""
    path, mark, fragment = name.rpartition("#t=")
    match = _FRAGMENT.fullmatch(mark + fragment)
    if match is None or not path:
        return name, WHOLE
    try:
        start, end = (None if text is None else float(text) for text in match.groups())
    except ValueError:
        return name, WHOLE
    return path, Segment(start, end)


@dataclass(frozen=True)
class VideoDataset:
    """One split of a data set.

    Attributes:
        class_names: All classes of the data set, including those without a video in this split.
        records: The videos, in an order that depends only on the data set.
        missing: Number of listed videos that were not found, where that is allowed.
        ignored: Files in the class folders that are not videos, of all splits.
        notes: Lines for the user about how the data set was read.
    """

    class_names: tuple[str, ...]
    records: tuple[VideoRecord, ...]
    missing: int = 0
    ignored: tuple[str, ...] = ()
    notes: tuple[str, ...] = ()

    def describe_ignored(self) -> str:
        """Return number and examples of the ignored files."""
        what = "file that is not a video" if len(self.ignored) == 1 else "files that are not videos"
        return f"{len(self.ignored):,} {what}: {examples(self.ignored)}"

    def remarks(self) -> list[str]:
        """Return lines for the user about how the data set was read, and what was left out."""
        ignored = [f"IGNORED: {self.describe_ignored()}"] if self.ignored else []
        return [*map(printable, self.notes), *ignored]


@dataclass(frozen=True)
class Listing:
    """What lists and folders say about the videos of a data set.

    Attributes:
        path: The data set's folder or manifest.
        class_names: All classes, in the order of their labels.
        parts: The videos of each split that was looked for, also those that do not exist; None for
            a split that needs a list and has none. If nothing divides the data set, the only part
            is None, with all videos.
        missing: Names of the listed videos that were not found, by path.
        ignored: Files in the class folders that are not videos, and folders next to those of the
            splits, relative to the data set's folder.
        notes: Lines for the user about how the data set was read.
    """

    path: Path
    class_names: tuple[str, ...]
    parts: Mapping[Part, tuple[VideoRecord, ...] | None]
    missing: Mapping[Path, str] = field(default_factory=dict)
    ignored: tuple[str, ...] = ()
    notes: tuple[str, ...] = ()

    @cached_property  # since it is asked for every video
    def folder(self) -> Path:
        """The data set's folder, which relative names start from."""
        return self.path.parent if self.path.is_file() else self.path

    @property
    def is_divided(self) -> bool:
        """Whether its videos are divided into splits."""
        return None not in self.parts

    @property
    def records(self) -> tuple[VideoRecord, ...]:
        """All videos, in the order of the parts."""
        return tuple(record for part in self.parts.values() for record in part or ())

    def missing_from(self, part: Part) -> tuple[str, ...]:
        """Return the names of the videos of a part that were not found."""
        paths = (record.path for record in self.parts[part] or ())
        return tuple(self.missing[path] for path in paths if path in self.missing)

    def dataset(self, part: Part, *, allow_missing: bool) -> VideoDataset:
        """Return one split, or the undivided videos; only a validation split may be empty.

        Raises:
            MissingVideosError: Videos are missing and `allow_missing` is False, or all are.
            UserError: Nothing says which videos belong to the split, or none do.
        """
        if part is not None and not self.is_divided:
            raise UserError(self._how_to_divide())
        listed = self.parts[part]
        if listed is None:
            raise UserError(
                f"{self.path}: no list says which videos are for {part}; give --{part}-list"
            )
        missing = self.missing_from(part)
        check_missing(missing, len(listed), self.folder, allow_missing)
        if not listed and part != "validation":
            purpose = f" for {part}" if part else ""
            raise UserError(
                f"{self.path}: has no videos{purpose}; add some, or fix the lists or rule"
            )
        records = tuple(record for record in listed if record.path not in self.missing)
        return VideoDataset(self.class_names, records, len(missing), self.ignored, self.notes)

    def all_videos(self, *, allow_missing: bool) -> VideoDataset:
        """Return the videos of all parts together; see `dataset`."""
        whole = replace(self, parts={None: self.records})
        return whole.dataset(None, allow_missing=allow_missing)

    def _how_to_divide(self) -> str:
        with_pattern = (
            "" if any(record.group for record in self.records) else "--group-pattern and "
        )
        column = ", or add a column split" if self.path.is_file() else ""
        return (
            f"{self.path}: nothing says which videos are for training and for testing; give "
            f"--test-fraction, {with_pattern}--test-groups, or --train-list and --test-list{column}"
        )


def examples(names: Sequence[str]) -> str:
    """Return the first three names, for a message."""
    return printable(", ".join(names[:3]) + (", ..." if len(names) > 3 else ""))


class MissingVideosError(UserError):
    """Listed videos were not found; `names` has all of them, the message the first three."""

    def __init__(self, message: str, names: Sequence[str]) -> None:
        super().__init__(message)
        self.names = tuple(names)


def check_missing(missing: Sequence[str], total: int, root: Path, allow_missing: bool) -> None:
    """Check how many of `total` listed videos were not found under `root`.

    Raises:
        MissingVideosError: Videos are missing and `allow_missing` is False, or all are missing.
    """
    if not missing or (allow_missing and len(missing) < total):
        return
    fact = f"{len(missing):,} of {total:,} listed videos are not under {root} ({examples(missing)})"
    if all("\\" in name for name in missing):
        remedy = "write / in its paths in place of \\"
    elif len(missing) == total:
        remedy = "put the videos there, or give the folder that holds them"
    else:
        remedy = "add them, or use the others with --allow-missing"
    raise MissingVideosError(f"{fact}; {remedy}", missing)
