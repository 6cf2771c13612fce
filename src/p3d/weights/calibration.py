"""The calibration of a network, as an entry of its metadata."""

from __future__ import annotations

import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from p3d.errors import UserError
from p3d.system.files import file_sha256
from p3d.system.spelling import ask_meant
from p3d.weights.entries import MAX_ENTRY_LENGTH, parse_entry

_MAX_VALUES = 100
TIMELINE_PREFIX = "timeline_"
"""Begins the names of values that say how a timeline's scores become segments."""
_MAY_BE_ZERO = tuple(f"{TIMELINE_PREFIX}{name}" for name in ("smooth", "shortest", "merge"))


def check_calibration(values: Mapping[str, Any]) -> dict[str, float]:
    """Return the values of a calibration as floats.

    Raises:
        UserError: There are too many, or one is not a finite number above 0.
    """
    if len(values) > _MAX_VALUES:
        raise UserError(f"its calibration has {len(values)} values; calibrate the network again")
    for name, value in values.items():
        is_number = isinstance(value, (int, float)) and not isinstance(value, bool)
        is_number = is_number and len(name) <= MAX_ENTRY_LENGTH
        is_zero = is_number and value == 0 and name in _MAY_BE_ZERO
        if not is_number or not (is_zero or 0 < value <= sys.float_info.max):
            raise UserError(
                f"its calibration is damaged ({name[:20]!r} is {str(value)[:20]}, not a finite "
                "number above 0); calibrate the network again"
            )
    return {name: float(value) for name, value in values.items()}


def read_calibration(metadata: Mapping[str, str]) -> dict[str, float]:
    """Return the values that `p3d calibrate` has fitted; none if it was not run.

    Raises:
        UserError: They are invalid.
    """
    values = parse_entry(metadata, "calibration", "its calibration is")
    if values is not None and not isinstance(values, dict):
        raise UserError("its calibration is damaged (no dictionary); calibrate the network again")
    return check_calibration(values or {})


def check_scored_by(weights: Path, sha256: str, scores: str, command: str) -> None:
    """Check that scores are those of a weight file.

    Args:
        weights: The file.
        sha256: Its SHA-256, as the scores state it.
        scores: What to call the scores in messages.
        command: The command that wrote them.

    Raises:
        UserError: They are not, or there is no such file.
    """
    if not weights.is_file():
        remedy = ask_meant(weights, "give the weights that gave the scores")
        raise UserError(f"{weights}: no such file; {remedy}")
    if file_sha256(weights) != sha256:
        raise UserError(
            f"{scores}: holds the scores of other weights than {weights} (SHA-256 {sha256[:8]}); "
            f"give those weights, or run {command} again"
        )
