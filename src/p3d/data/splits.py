"""Rules that divide videos into training, validation and test, keeping groups together."""

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
    """How a folder per class is split: by lists, by named groups, or by fractions.

    Test videos are chosen first, then validation videos; all others are for training.
    """

    group_pattern: str | None = None
    """Regular expression with one pair of parentheses that captures, in a video's name without
    suffix, the group to keep in one split, such as a person or a scene. ^([^_]+)_ captures what
    comes before the first underscore."""

    test_groups: tuple[str, ...] = ()
    """Groups, as captured by the pattern, whose videos are for testing."""

    validation_groups: tuple[str, ...] = ()
    """Groups, as captured by the pattern, whose videos are for validation."""

    test_fraction: float = 0.0
    """Fraction of each class for testing, 0 to 1: of its videos, or of its groups if a pattern is
    given."""

    validation_fraction: float = 0.0
    """Fraction of each class for validation, like that for testing."""

    split_seed: int = 0
    """Seed of the choice by fractions. Adding videos changes the split of hardly any others."""

    train_list: Path | None = None
    """Text file with the training videos, one CLASS/VIDEO per line."""

    validation_list: Path | None = None
    """Text file with the validation videos."""

    test_list: Path | None = None
    """Text file with the test videos."""


class Video(NamedTuple):
    """A video in a class folder; `group` is "" if there is none."""

    class_name: str
    file_name: str
    group: str

    @property
    def name(self) -> str:
        """Its name in lists."""
        return f"{self.class_name}/{self.file_name}"

    @property
    def unit(self) -> str:
        """What is kept in one split: the group, or the video whatever its file format."""
        return self.group or f"{self.class_name}/{stem_of(self.file_name)}"


def with_groups(videos: Sequence[Video], pattern: str | None) -> list[Video]:
    """Return the videos with the groups that a pattern captures in their names.

    Raises:
        UserError: The pattern is invalid, or does not match a name.
    """
    if pattern is None:
        return list(videos)
    try:
        regex = re.compile(pattern)
    except re.error as error:
        raise UserError(
            f"--group-pattern {pattern!r} is not a valid regular expression: {error}"
        ) from error
    if regex.groups != 1:
        raise UserError(
            f"--group-pattern {pattern!r} has {regex.groups} pairs of parentheses; "
            "it needs one, around the group"
        )
    matches = [regex.search(stem_of(video.file_name)) for video in videos]
    unmatched = [v for v, match in zip(videos, matches, strict=True) if not (match and match[1])]
    if unmatched:
        raise UserError(
            f"--group-pattern {pattern!r} finds no group in {unmatched[0].name} "
            f"({len(unmatched)} of {len(videos)} videos); it must match every name"
        )
    return [v._replace(group=m[1]) for v, m in zip(videos, matches, strict=True) if m]


def divide(videos: Sequence[Video], rule: SplitRule, source: str) -> dict[Split, list[Video]]:
    """Divide videos by named groups or by fractions.

    A fraction takes that part of each class's units (groups, or single videos without a pattern),
    at least one, and leaves at least one. The choice depends on a hash of the unit's name and the
    seed: all classes give up the same groups, and a new video moves at most a few others.

    Args:
        videos: All videos, sorted.
        rule: Named groups and fractions; lists are ignored.
        source: Name of the data set in error messages.

    Raises:
        UserError: The rule contradicts itself, names an unknown group, or leaves a split empty.
    """
    _check_rule(videos, rule, source)
    classes = [
        {video.unit for video in members}
        for _, members in groupby(videos, key=lambda video: video.class_name)
    ]
    test = set(rule.test_groups) or _choose(classes, set(), rule.test_fraction, rule.split_seed)
    validation = set(rule.validation_groups) or _choose(
        classes, test, rule.validation_fraction, rule.split_seed
    )
    divided: dict[Split, list[Video]] = {split: [] for split in SPLITS}
    for video in videos:
        other: Split = "validation" if video.unit in validation else "train"
        divided["test" if video.unit in test else other].append(video)
    required: list[Split] = ["train"]
    required += ["test"] if rule.test_groups or rule.test_fraction else []
    required += ["validation"] if rule.validation_groups or rule.validation_fraction else []
    for split in required:
        if not divided[split]:
            raise UserError(
                f"{source}: the rule leaves no videos for {split} out of {len(videos)} videos in "
                f"{len({v.unit for v in videos})} groups; choose other fractions or groups"
            )
    return divided


def _check_rule(videos: Sequence[Video], rule: SplitRule, source: str) -> None:
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
            f"{source}: nothing says which videos are for training and for testing; give "
            "--test-fraction, --group-pattern with --test-groups, or --train-list with --test-list"
        )
    if any(named.values()) and rule.group_pattern is None:
        raise UserError(
            "--test-groups and --validation-groups need --group-pattern, "
            "which captures the group in a video's name"
        )
    groups = {video.group for video in videos}
    for split, names in named.items():
        for name in names:
            if name not in groups:
                raise UserError(f"--{split}-groups: no group {name}; there are {_some(groups)}")
    if both := set(rule.test_groups) & set(rule.validation_groups):
        raise UserError(f"group {min(both)} is for both testing and validation; choose one")


def _some(names: Iterable[str]) -> str:
    ordered = sorted(names)
    return ", ".join(ordered[:20]) + (f" and {len(ordered) - 20} more" if ordered[20:] else "")


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
