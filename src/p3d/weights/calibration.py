"""The calibration of a network, as an entry of its metadata."""

from __future__ import annotations

import json
import sys
from collections.abc import Mapping
from typing import Any

from p3d.errors import UserError

MAX_ENTRY_LENGTH = 100
"""Upper limit of the characters of an entry with one word or number."""
_MAX_VALUES = 100
TIMELINE_PREFIX = "timeline_"
"""Begins the names of values that say how a timeline's scores become segments."""
_MAY_BE_ZERO = tuple(f"{TIMELINE_PREFIX}{name}" for name in ("smooth", "shortest", "merge"))


def parse_entry(metadata: Mapping[str, str], key: str) -> Any:
    """Return the value of an entry in JSON, or None if the entry is missing.

    Raises:
        ValueError: It is not JSON.
    """
    try:
        return json.loads(metadata[key]) if key in metadata else None
    except RecursionError as error:
        raise ValueError(f"{key} is nested too deep") from error


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
    try:
        values = parse_entry(metadata, "calibration")
    except ValueError as error:
        raise UserError(f"its calibration is damaged ({error}); save the model again") from error
    if values is not None and not isinstance(values, dict):
        raise UserError("its calibration is damaged (no dictionary); calibrate the network again")
    return check_calibration(values or {})
