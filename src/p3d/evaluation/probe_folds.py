"""Folds: which videos to train on, and which to measure on, in turn."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path, PurePath
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from p3d.data.dataset import SPLITS
from p3d.data.layouts import DataOptions, read_splits
from p3d.data.listing import stem_of
from p3d.data.patterns import compile_pattern
from p3d.errors import UserError

Indices = NDArray[np.int64]


class Fold(NamedTuple):
    """A fold: its name, and the positions of its training and its test videos."""

    name: str
    train: Indices
    test: Indices


def divide_groups(groups: Sequence[str], number: int) -> list[Indices]:
    """Divide videos into parts of about equal size, keeping groups together.

    The largest groups are assigned first, each to the part with the fewest videos.

    Args:
        groups: Group of each video; "" is a group of its own.
        number: Number of parts, at most that of the groups.

    Returns:
        Positions of the videos of each part, ascending.
    """
    members: dict[tuple[str, int], list[int]] = {}
    for row, name in enumerate(groups):
        members.setdefault((name, 0 if name else row), []).append(row)
    parts: list[list[int]] = [[] for _ in range(number)]
    for _, rows in sorted(members.items(), key=lambda item: (-len(item[1]), item[0])):
        min(parts, key=len).extend(rows)
    return [np.array(sorted(part), np.int64) for part in parts]


def folds_by_group(groups: Sequence[str], number: int | None) -> list[Fold]:
    """Return one fold for each group, or a number of folds of whole groups.

    Args:
        groups: Group of each video.
        number: Number of folds; None leaves one group out in turn.

    Raises:
        UserError: Videos have no group, there is only one, or there are more folds than groups.
    """
    names = sorted(set(groups))
    if "" in names:
        raise UserError(
            f"{list(groups).count('')} of {len(groups)} videos have no group; give "
            "--group-pattern, which captures the group in a video's name"
        )
    if len(names) < 2:
        raise UserError(
            f"all {len(groups)} videos are in one group ({names[0]}); give a --group-pattern that "
            "captures what differs between groups"
        )
    if number is not None and not 2 <= number <= len(names):
        raise UserError(f"--folds {number}: give 2 to {len(names)}, the number of groups")
    if number is None:
        rows = {name: np.flatnonzero(np.array(groups, object) == name) for name in names}
    else:
        parts = divide_groups(groups, number)
        rows = {str(place): part for place, part in enumerate(parts, start=1)}
    everything = np.arange(len(groups))
    return [Fold(name, np.setdiff1d(everything, test), test) for name, test in rows.items()]


def folds_by_split(splits: Sequence[str]) -> list[Fold]:
    """Return one fold: the training and validation videos, and the test videos.

    Raises:
        UserError: There are no training or no test videos.
    """
    column = np.array(splits, object)
    train, test = np.flatnonzero(np.isin(column, SPLITS[:2])), np.flatnonzero(column == "test")
    if not (len(train) and len(test)):
        raise UserError(
            f"the features are of {len(train)} videos for training and {len(test)} for testing; "
            "give --folds groups or a number of folds, or compute the features of all splits"
        )
    return [Fold("test", train, test)]


def folds_of_ucf101(paths: Sequence[str], root: Path) -> list[Fold]:
    """Return the three official splits of UCF101; validation videos are for training.

    Args:
        paths: Path of each video with features.
        root: Data set in the layout of UCF101.

    Raises:
        UserError: There is no such data set, or a listed video has no features.
    """
    rows = {_name(path): row for row, path in enumerate(paths)}
    folds = []
    for number in (1, 2, 3):
        lists = read_splits(DataOptions(root, fold=number, allow_missing=True))
        found: dict[str, list[int]] = {}
        for split, dataset in lists.items():
            names = [_name(str(record.path)) for record in dataset.records]
            absent = [name for name in names if name not in rows]
            if absent:
                raise UserError(
                    f"split {number}: {len(absent)} of {len(names)} {split} videos have no "
                    f"features ({absent[0]}); compute those of all videos (p3d features)"
                )
            found[split] = [rows[name] for name in names]
        train = np.array(sorted({*found["train"], *found["validation"]}), np.int64)
        folds.append(Fold(str(number), train, np.array(found["test"], np.int64)))
    return folds


def _name(path: str) -> str:
    """Return class folder and name of a video, which are the same on every machine."""
    return "/".join(PurePath(path).parts[-2:])


def capture_groups(paths: Sequence[str], pattern: str) -> tuple[str, ...]:
    """Return what a pattern captures in the names of videos, see `SplitRule.group_pattern`.

    Raises:
        UserError: The pattern is invalid, or does not match a name.
    """
    find = compile_pattern("--group-pattern", pattern, "the group")
    names = [stem_of(path if "/" in pattern else PurePath(path).name) for path in paths]
    groups = tuple(map(find, names))
    if "" in groups:
        raise UserError(
            f"--group-pattern {pattern!r} finds no group in {names[groups.index('')]} "
            f"({groups.count('')} of {len(groups)} videos); it must match every name"
        )
    return groups


def check_classes(folds: Sequence[Fold], labels: Indices, class_names: Sequence[str]) -> None:
    """Check that each class with videos is in the training list of every fold.

    Raises:
        UserError: A class is missing, or there is only one class.
    """
    present = np.unique(labels)
    if len(present) < 2:
        raise UserError(
            f"all videos are of the class {class_names[present[0]]}; give videos of more classes"
        )
    for fold in folds:
        absent = np.setdiff1d(present, labels[fold.train])
        if len(absent):
            more = f" and {len(absent) - 1} more" if len(absent) > 1 else ""
            raise UserError(
                f"fold {fold.name}: there is no training video of the class "
                f"{class_names[absent[0]]}{more}; leave the class out, or choose other folds"
            )
