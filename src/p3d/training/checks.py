"""Checks of options and training lists, before anything is built."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Callable, Iterable
from pathlib import Path

from p3d.data.dataset import VideoDataset, examples
from p3d.errors import UserError
from p3d.system.options import option_flag


def is_positive(value: float) -> bool:
    """Return whether a number is finite and above 0."""
    return 0 < value < math.inf


def is_not_negative(value: float) -> bool:
    """Return whether a number is finite and at least 0."""
    return 0 <= value < math.inf


def is_count(value: float) -> bool:
    """Return whether a number is finite and at least 1."""
    return 1 <= value < math.inf


def check_options(
    options: object, names: Iterable[str], fits: Callable[[float], bool], rule: str
) -> None:
    """Check numbers in a dataclass of options; None passes.

    Args:
        options: The options.
        names: The fields to check.
        fits: Whether a value is allowed; NaN must not be.
        rule: What to give, for the message.

    Raises:
        UserError: A value is not allowed.
    """
    for name in names:
        value = getattr(options, name)
        if value is not None and not fits(value):
            raise UserError(f"{option_flag(name)} is {value}; give {rule}")


def check_classes(path: Path, training: VideoDataset) -> tuple[str, ...]:
    """Check that there is something to tell apart; return a message about classes without videos.

    Args:
        path: The data set, for the message.
        training: The training list.

    Raises:
        UserError: The training videos are of a single class.
    """
    counts = Counter(record.label for record in training.records)
    names = training.class_names
    if len(counts) < 2:
        (only,) = counts
        raise UserError(
            f"{path}: there are training videos of only one class, {names[only]}, so there is "
            "nothing to learn; add videos of another class"
        )
    absent = [name for label, name in enumerate(names) if label not in counts]
    if not absent:
        return ()
    return (f"NO TRAINING VIDEOS: {len(absent)} of {len(names)} classes: {examples(absent)}",)
