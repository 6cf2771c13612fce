"""How videos are divided into training, validation and test, groups kept whole."""

from __future__ import annotations

import hashlib
import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from itertools import groupby
from pathlib import Path
from typing import NamedTuple

from p3d.data.dataset import SPLITS, Split
from p3d.data.listing import stem_of
from p3d.errors import UserError


@dataclass(frozen=True)
class SplitRule:
    """How a folder per class is divided: by lists, by named groups, or by fractions.

    Test videos are chosen first, validation videos from the rest; all others are for training.
    """

    group_pattern: str | None = None
    """Regular expression with one pair of parentheses that captures, in a video's name without
    suffix, what must not be torn apart, such as a person or a scene. ^([^_]+)_ captures what
    stands before the first underscore."""

    test_groups: tuple[str, ...] = ()
    """Groups, as captured by the pattern, whose videos are for testing."""

    validation_groups: tuple[str, ...] = ()
    """Groups, as captured by the pattern, whose videos are for validation."""

    test_fraction: float = 0.0
    """Share of each class for testing, 0 to 1: of its videos, or of its groups, kept whole, where
    a pattern is given."""

    validation_fraction: float = 0.0
    """Share of each class for validation, like the share for testing."""

    split_seed: int = 0
    """Another number, another choice by fractions. Adding videos moves hardly any others."""

    train_list: Path | None = None
    """Text file with the training videos, one a line, as CLASS/VIDEO."""

    validation_list: Path | None = None
    """Text file with the validation videos."""

    test_list: Path | None = None
    """Text file with the test videos."""


class Video(NamedTuple):
    """A video found below a class folder: its class, its file name, its group ("" if none)."""

    class_name: str
    file_name: str
    group: str

    @property
    def name(self) -> str:
        """As lists name it."""
        return f"{self.class_name}/{self.file_name}"

    @property
    def unit(self) -> str:
        """What is never divided: the group, or the video, whatever its file format."""
        return self.group or f"{self.class_name}/{stem_of(self.file_name)}"


def with_groups(videos: Sequence[Video], pattern: str | None) -> list[Video]:
    """Find the group of each video in its name.

    Raises:
        UserError: The pattern is no pattern for groups, or finds none in a name.
    """
    if pattern is None:
        return list(videos)
    try:
        regex = re.compile(pattern)
    except re.error as error:
        raise UserError(f"--group-pattern {pattern!r} is no regular expression: {error}") from error
    if regex.groups != 1:
        raise UserError(
            f"--group-pattern {pattern!r} has {regex.groups} pairs of parentheses; "
            "it needs one, around what names the group"
        )
    matches = [regex.search(stem_of(video.file_name)) for video in videos]
    strays = [
        video for video, match in zip(videos, matches, strict=True) if not (match and match[1])
    ]
    if strays:
        raise UserError(
            f"--group-pattern {pattern!r} finds no group in {strays[0].name} "
            f"({len(strays)} of {len(videos)} videos); it must match every name"
        )
    return [v._replace(group=m[1]) for v, m in zip(videos, matches, strict=True) if m]


def divide(videos: Sequence[Video], rule: SplitRule, where: str) -> dict[Split, list[Video]]:
    """Divide videos by named groups or by fractions.

    A fraction takes from each class that share of its units (groups, or single videos where there
    is no pattern), at least one, and leaves at least one. Which ones depends on a hash of their
    names and the seed: so the same groups are taken from all classes, and a new video moves at
    most a few others.

    Args:
        videos: All of them, sorted.
        rule: Named groups and fractions; lists are not looked at.
        where: Named in errors.

    Raises:
        UserError: The rule contradicts itself, names an unknown group, or leaves a split empty.
    """
    _check_rule(videos, rule, where)
    everything = _units_by_class(videos)
    test = set(rule.test_groups) or _choose(everything, set(), rule.test_fraction, rule.split_seed)
    validation = set(rule.validation_groups) or _choose(
        everything, test, rule.validation_fraction, rule.split_seed
    )
    divided: dict[Split, list[Video]] = {split: [] for split in SPLITS}
    for video in videos:
        kind: Split = "validation" if video.unit in validation else "train"
        divided["test" if video.unit in test else kind].append(video)
    wanted: list[Split] = ["train"]
    wanted += ["test"] if rule.test_groups or rule.test_fraction else []
    wanted += ["validation"] if rule.validation_groups or rule.validation_fraction else []
    for split in wanted:
        if not divided[split]:
            raise UserError(
                f"{where}: the rule leaves no videos for {split} out of {len(videos)} videos in "
                f"{len({v.unit for v in videos})} groups; choose other fractions or groups"
            )
    return divided


def _check_rule(videos: Sequence[Video], rule: SplitRule, where: str) -> None:
    fractions = {"test": rule.test_fraction, "validation": rule.validation_fraction}
    named = {"test": rule.test_groups, "validation": rule.validation_groups}
    for split, fraction in fractions.items():
        if not 0 <= fraction < 1:
            raise UserError(f"--{split}-fraction {fraction} must be at least 0 and below 1")
        if fraction and named[split]:
            raise UserError(f"give --{split}-fraction or --{split}-groups, not both")
    if sum(fractions.values()) >= 1:
        raise UserError(
            f"--test-fraction {rule.test_fraction} and --validation-fraction "
            f"{rule.validation_fraction} leave nothing for training; their sum must be below 1"
        )
    if not any(fractions.values()) and not any(named.values()):
        raise UserError(
            f"{where}: nothing says which videos are for training and which for testing; give "
            "--test-fraction, --group-pattern with --test-groups, or --train-list with --test-list"
        )
    if any(named.values()) and rule.group_pattern is None:
        raise UserError(
            "--test-groups and --validation-groups need --group-pattern, "
            "which says where a video's name holds its group"
        )
    groups = {video.group for video in videos}
    for split, names in named.items():
        for name in names:
            if name not in groups:
                raise UserError(
                    f"--{split}-groups: there is no group {name}; there are {_some(groups)}"
                )
    if both := set(rule.test_groups) & set(rule.validation_groups):
        raise UserError(f"group {min(both)} is named for both testing and validation; choose one")


def _some(names: Iterable[str]) -> str:
    ordered = sorted(names)
    return ", ".join(ordered[:20]) + (f" and {len(ordered) - 20} more" if ordered[20:] else "")


def _units_by_class(videos: Sequence[Video]) -> list[set[str]]:
    by_class = groupby(videos, key=lambda video: video.class_name)
    return [{video.unit for video in members} for _, members in by_class]


def _choose(classes: Sequence[set[str]], taken: set[str], fraction: float, seed: int) -> set[str]:
    chosen: set[str] = set()
    if fraction == 0:
        return chosen
    for units in classes:
        free = sorted(units - taken, key=lambda unit: _hash(seed, unit))
        count = max(1, int(len(units) * fraction + 0.5))
        chosen.update(free[: max(min(count, len(free) - 1), 0)])
    return chosen


def _hash(seed: int, unit: str) -> bytes:
    return hashlib.sha256(f"{seed} {unit}".encode("utf-8", "surrogateescape")).digest()
