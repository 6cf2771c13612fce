"""Rules that divide videos into training, validation and test, keeping groups together."""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from p3d.data.dataset import SPLITS, Listing, Split, VideoRecord
from p3d.data.listing import stem_of
from p3d.data.patterns import compile_pattern, name_of
from p3d.data.split_lists import Parts, divide_by_lists
from p3d.errors import UserError


@dataclass(frozen=True)
class SplitRule:
    """How labeled videos are divided: by lists, by named groups, or by fractions.

    Test videos are chosen first, then validation videos; all others are for training. A rule takes
    precedence over the division that a data set has. If it chooses only validation videos, the data
    set's own test videos stay.
    """

    group_pattern: str | None = None
    """Regular expression with one pair of parentheses that captures, in a video's name without
    suffix, the group to keep in one split, such as a person or a scene. ^([^_]+)_ captures what
    comes before the first underscore. A pattern with a slash is searched in the whole path below
    --data instead. By default, groups come from the column group of a CSV file or the names of
    UCF101."""

    test_groups: tuple[str, ...] = ()
    """Groups whose videos are for testing."""

    validation_groups: tuple[str, ...] = ()
    """Groups whose videos are for validation."""

    test_fraction: float = 0.0
    """Fraction of each class for testing, 0 to 1: of its groups, or of its videos if there are no
    groups."""

    validation_fraction: float = 0.0
    """Fraction of each class for validation, like that for testing."""

    split_seed: int = 0
    """Seed of the choice by fractions. Adding videos changes the split of hardly any others."""

    train_list: Path | None = None
    """Text file with the training videos, one CLASS/VIDEO (path below --data) per line."""

    validation_list: Path | None = None
    """Text file with the validation videos, like that of --train-list."""

    test_list: Path | None = None
    """Text file with the test videos, like that of --train-list."""

    def __post_init__(self) -> None:
        """Convert strings to paths, and a single group to a tuple."""
        for name in ("train_list", "validation_list", "test_list"):
            if isinstance(getattr(self, name), str):
                object.__setattr__(self, name, Path(getattr(self, name)))
        for name in ("test_groups", "validation_groups"):
            groups = getattr(self, name)
            object.__setattr__(self, name, (groups,) if isinstance(groups, str) else tuple(groups))

    @property
    def lists(self) -> dict[Split, Path | None]:
        """The lists of the splits."""
        lists = (self.train_list, self.validation_list, self.test_list)
        return dict(zip(SPLITS, lists, strict=True))

    @property
    def choices(self) -> dict[Split, tuple[str, ...] | float]:
        """Named groups, or else the fraction, of the splits for which there are any."""
        choices: dict[Split, tuple[str, ...] | float] = {
            "test": self.test_groups or self.test_fraction,
            "validation": self.validation_groups or self.validation_fraction,
        }
        return {split: choice for split, choice in choices.items() if choice}

    @property
    def options(self) -> list[str]:
        """Names of the options that divide videos."""
        lists = [f"--{split}-list" for split, path in self.lists.items() if path]
        kinds = {
            split: "groups" if isinstance(choice, tuple) else "fraction"
            for split, choice in self.choices.items()
        }
        return [*lists, *(f"--{split}-{kind}" for split, kind in kinds.items())]

    @property
    def divides(self) -> bool:
        """Whether it divides videos, instead of only naming their groups."""
        return bool(self.options)


def apply_rule(listing: Listing, rule: SplitRule) -> Listing:
    """Divide a data set by a rule, which takes precedence over its own division.

    Raises:
        UserError: The rule contradicts itself or does not fit the videos.
    """
    listing = _with_groups(listing, rule.group_pattern)
    if not rule.divides:
        return listing
    missing, notes = listing.missing, listing.notes
    parts: Parts
    if any(rule.lists.values()):
        if rule.choices:
            raise UserError("give lists, or fractions or groups, for the splits: not both")
        parts, missing = divide_by_lists(listing, rule.lists)
        kept = ""
    elif listing.is_divided and "test" not in rule.choices:
        rest: Parts = {part: found for part, found in listing.parts.items() if part != "test"}
        parts = divide(replace(listing, parts=rest), rule) | {"test": listing.parts["test"]}
        kept = "; its own test videos stay"
    else:
        parts, kept = divide(listing, rule), ""
    if listing.is_divided:
        notes += (f"DIVIDED by {' and '.join(rule.options)}, not as the data set says{kept}",)
    return replace(listing, parts=parts, missing=missing, notes=notes)


def _with_groups(listing: Listing, pattern: str | None) -> Listing:
    """Return the videos with the groups that a pattern captures in their names.

    Raises:
        UserError: The pattern is invalid, or does not match a name.
    """
    if pattern is None:
        return listing
    find = compile_pattern("--group-pattern", pattern, "the group")
    has_path = "/" in pattern

    def with_group(record: VideoRecord) -> VideoRecord:
        name = stem_of(name_of(record.path, listing.folder) if has_path else record.path.name)
        return replace(record, group=find(name))

    parts = {
        part: None if records is None else tuple(map(with_group, records))
        for part, records in listing.parts.items()
    }
    listing = replace(listing, parts=parts)
    unmatched = [record for record in listing.records if not record.group]
    if unmatched:
        raise UserError(
            f"--group-pattern {pattern!r} finds no group in "
            f"{name_of(unmatched[0].path, listing.folder)} ({len(unmatched)} of "
            f"{len(listing.records)} videos); it must match every name"
        )
    return listing


def divide(listing: Listing, rule: SplitRule) -> Parts:
    """Divide all videos of a data set by named groups or by fractions.

    A fraction takes that part of each class's units (groups, or single videos without a group), at
    least one, and leaves at least one. The choice depends on a hash of the unit's name and the
    seed: all classes give up the same groups, and a new video moves at most a few others. Videos
    that do not exist are not counted, but belong to the split of their unit.

    Raises:
        UserError: The rule contradicts itself, names an unknown group, or leaves a split empty.
    """
    units = {r.path: _unit(r, listing.folder) for r in listing.records}
    found = [record for record in listing.records if record.path not in listing.missing]
    _check_rule(found, rule)
    classes: dict[int, set[str]] = {}
    for record in found:
        classes.setdefault(record.label, set()).add(units[record.path])
    chosen: dict[Split, set[str]] = {"test": set(), "validation": set()}
    for split, choice in rule.choices.items():
        if isinstance(choice, tuple):
            chosen[split] = set(choice)
        else:
            chosen[split] = _choose(classes.values(), chosen["test"], choice, rule.split_seed)
    divided: dict[Split, list[VideoRecord]] = {split: [] for split in SPLITS}
    for record in listing.records:
        unit = units[record.path]
        other: Split = "validation" if unit in chosen["validation"] else "train"
        divided["test" if unit in chosen["test"] else other].append(record)
    for split in ("train", *rule.choices):
        if not any(record.path not in listing.missing for record in divided[split]):
            raise UserError(
                f"{listing.path}: the rule leaves no videos for {split} out of {len(found)} videos "
                f"in {len({units[r.path] for r in found})} groups; choose other fractions or groups"
            )
    return {split: tuple(records) for split, records in divided.items()}


def _unit(record: VideoRecord, folder: Path) -> str:
    """Return what is kept in one split: the group, or the video whatever its file format."""
    return record.group or stem_of(name_of(record.path, folder))


def _check_rule(records: Sequence[VideoRecord], rule: SplitRule) -> None:
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
    groups = {record.group for record in records} - {""}
    if any(named.values()) and not groups:
        raise UserError(
            "--test-groups and --validation-groups need --group-pattern, which captures the group "
            "in a video's name, or a column group in a CSV file"
        )
    for split, names in named.items():
        for name in names:
            if name not in groups:
                raise UserError(f"--{split}-groups: no group {name}; there are {_some(groups)}")
    if both := set(rule.test_groups) & set(rule.validation_groups):
        raise UserError(f"group {min(both)} is for both testing and validation; choose one")


def _some(names: Iterable[str]) -> str:
    ordered = sorted(names)
    return ", ".join(ordered[:20]) + (f" and {len(ordered) - 20} more" if ordered[20:] else "")


def _choose(classes: Iterable[set[str]], taken: set[str], fraction: float, seed: int) -> set[str]:
    chosen: set[str] = set()
    for units in classes:
        free = sorted(units - taken, key=lambda unit: _hash(seed, unit))
        count = max(1, int(len(units) * fraction + 0.5))
        chosen.update(free[: max(min(count, len(free) - 1), 0)])
    return chosen


def _hash(seed: int, unit: str) -> bytes:
    return hashlib.sha256(f"{seed} {unit}".encode("utf-8", "surrogateescape")).digest()
