"""What a data set is: class names and records of videos. And how folders and lists are looked at.

Each folder is listed once; nothing is asked about single files, which would take minutes on a
network drive with hundreds of thousands of videos.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from p3d.errors import UserError

Split = Literal["train", "validation", "test"]

SPLITS: tuple[Split, ...] = ("train", "validation", "test")


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
