"""Videos that occur twice: with the same content, or with features that nearly agree."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import combinations
from pathlib import Path
from typing import Literal, NamedTuple

import numpy as np

from p3d.data.dataset import parse_name
from p3d.errors import UserError
from p3d.prepare.same_content import find_same_content
from p3d.scores.arrays import Booleans, Floats, Integers

Kind = Literal["same content", "near-duplicate"]

NEIGHBORS = 10
_PART = 0.1
"""Largest distance of near-duplicates, as a part of the distance to the tenth neighbor."""
_BLOCK = 512
"""Videos that are compared with all others at a time; it bounds the memory."""


class Item(NamedTuple):
    """A video: its path, its class ("" if unknown), its group and its split."""

    path: str
    label: str
    group: str
    split: str


class Duplicate(NamedTuple):
    """Two videos that are the same, or nearly so.

    Attributes:
        kind: How they were found.
        first: A video.
        second: The other.
        cosine: Of their features; 1 for the same content.
    """

    kind: Kind
    first: Item
    second: Item
    cosine: float

    @property
    def across(self) -> str:
        """What differs between the two: splits, classes, groups, or nothing."""
        differs = {
            "splits": self.first.split != self.second.split,
            "classes": self.first.label != self.second.label,
            "groups": self.first.group != self.second.group,
        }
        return " and ".join(name for name, is_different in differs.items() if is_different)


def same_content(items: Sequence[Item], base: Path) -> tuple[list[Duplicate], int]:
    """Return pairs of videos whose files are equal, and the number of videos that are not there.

    The segments of a file are one video.

    Args:
        items: The videos.
        base: Folder that a relative path starts from, if there is no such video in the current one.

    Raises:
        UserError: A file cannot be read.
    """
    located = [(item, _locate(item.path, base)) for item in items]
    absent = sum(path is None for _, path in located)
    first = {path: item for item, path in reversed(located) if path is not None}
    present = [(item, path) for path, item in reversed(first.items())]
    try:
        groups = find_same_content([path for _, path in present])
    except OSError as error:
        raise UserError(f"{error.filename}: cannot be read ({error.strerror})") from error
    pairs = [
        Duplicate("same content", present[one][0], present[other][0], 1.0)
        for group in groups
        for one, other in combinations(group, 2)
    ]
    return pairs, absent


def _locate(path: str, base: Path) -> Path | None:
    file, _ = parse_name(path)
    places = (Path(file), base / file)
    return next((place for place in places if place.is_file() or place.is_dir()), None)


def near_duplicates(values: Floats, items: Sequence[Item], similarity: float) -> list[Duplicate]:
    """Return pairs of videos with nearly equal features, the most similar first.

    The mean of all features is subtracted first. Two videos of different splits or groups are
    near-duplicates if the cosine is at least `similarity`, and if their distance (1 - cosine)
    is at most a tenth of the distance of each to its tenth neighbor in other groups. The second
    rule keeps networks whose features have little but the class in them from finding duplicates
    everywhere; it also means that more than ten copies of a video are not found.

    Args:
        values: `(V, D)`, finite.
        items: The videos.
        similarity: In (0, 1].
    """
    centered = values - values.mean(0)
    lengths = np.linalg.norm(centered, axis=1, keepdims=True)
    unit = centered / np.where(lengths > 0, lengths, 1)
    splits = _numbers([item.split for item in items])
    groups = _numbers([item.group or position for position, item in enumerate(items)])
    tenth, found = np.zeros(len(items)), list[tuple[int, int, float]]()
    for start in range(0, len(items), _BLOCK):
        rows = slice(start, start + _BLOCK)
        cosines = unit[rows] @ unit.T
        is_other: Booleans = groups[rows, None] != groups
        tenth[rows] = _tenth_distance(cosines, is_other)
        is_other |= splits[rows, None] != splits
        close = np.argwhere(is_other & (cosines >= similarity))
        found += [
            (start + row, column, float(cosines[row, column]))
            for row, column in close.tolist()
            if column > start + row
        ]
    pairs = [
        Duplicate("near-duplicate", items[one], items[other], cosine)
        for one, other, cosine in found
        if 1 - cosine <= _PART * min(tenth[one], tenth[other])
    ]
    return sorted(pairs, key=lambda pair: -pair.cosine)


def _tenth_distance(cosines: Floats, is_other: Booleans) -> Floats:
    """Return each row's distance to its tenth neighbor in other groups, or to the farthest."""
    others = np.where(is_other, cosines, -np.inf)
    count = min(NEIGHBORS, others.shape[1])
    nearest = -np.partition(-others, count - 1, axis=1)[:, :count]
    known = np.where(np.isfinite(nearest), nearest, np.inf)
    farthest = known.min(1)
    return np.where(np.isfinite(farthest), 1 - farthest, np.inf)


def _numbers(keys: Sequence[object]) -> Integers:
    """Return a number for each key, equal for equal keys."""
    numbers: dict[object, int] = {}
    return np.array([numbers.setdefault(key, len(numbers)) for key in keys], np.int64)
