"""Records of videos, the splits of a data set, and errors about missing videos."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal, NamedTuple

from p3d.errors import UserError, printable

Split = Literal["train", "validation", "test"]

SPLITS: tuple[Split, ...] = ("train", "validation", "test")

UNLABELED = -1
"""Label of a video whose class is not known."""


@dataclass(frozen=True)
class VideoRecord:
    """One video of a data set.

    Attributes:
        path: A video file, or a folder of frames.
        label: Index of its class in the data set's class names, or `UNLABELED`.
        group: What it shares with other videos, such as a person or a scene; "" if unknown.
        num_frames: Number of frames, if a manifest states it.
        fps: Frame rate in frames per second, if a manifest states it.
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
        class_names: All classes of the data set, including those without a video in this split.
        records: The videos, in an order that depends only on the data set.
        missing: Number of listed videos that were not found, where that is allowed.
        ignored: Files in the class folders that are not videos, of all splits.
    """

    class_names: tuple[str, ...]
    records: tuple[VideoRecord, ...]
    missing: int = 0
    ignored: tuple[str, ...] = ()

    def describe_ignored(self) -> str:
        """Return number and examples of the ignored files."""
        return f"{len(self.ignored):,} files that are not videos: {examples(self.ignored)}"


class Listed(NamedTuple):
    """Videos listed for a split: records of those found, names of those missing."""

    records: tuple[VideoRecord, ...]
    missing: tuple[str, ...] = ()


@dataclass(frozen=True)
class Listing:
    """What lists and folders say about the splits of a data set.

    Attributes:
        path: The data set's folder or manifest.
        class_names: All classes, in the order of their labels.
        splits: Videos of the splits asked for; None for a split that needs a list and has none.
        ignored: Files in the class folders that are not videos, and folders next to those of the
            splits, relative to the data set's folder.
    """

    path: Path
    class_names: tuple[str, ...]
    splits: Mapping[Split, Listed | None]
    ignored: tuple[str, ...] = ()

    def dataset(self, split: Split, *, allow_missing: bool) -> VideoDataset:
        """Return one split; only a validation split may be empty.

        Raises:
            MissingVideosError: Videos are missing and `allow_missing` is False, or all are.
            UserError: No videos are listed for the split.
        """
        listed = self.splits[split]
        if listed is None:
            raise UserError(
                f"{self.path}: no list says which videos are for {split}; give --{split}-list"
            )
        records, missing = listed
        folder = self.path.parent if self.path.is_file() else self.path
        check_missing(missing, len(records) + len(missing), folder, allow_missing)
        if not records and split != "validation":
            raise UserError(
                f"{self.path}: has no videos for {split}; add some, or fix the lists or rule"
            )
        return VideoDataset(self.class_names, records, len(missing), self.ignored)


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
    if len(missing) == total:
        remedy = "put the videos there, or give the folder that holds them"
    else:
        remedy = "add them, or use the others with --allow-missing"
    raise MissingVideosError(f"{fact}; {remedy}", missing)
