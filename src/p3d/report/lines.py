"""Values of log lines and other JSON objects, which may be missing or of a wrong type."""

from __future__ import annotations

import json
import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

Line = Mapping[str, Any]


def number(line: Line, name: str, default: float = math.nan) -> float:
    """Return a number from a log line or from options, or the default if it is not a number."""
    value = line.get(name)
    return float(value) if isinstance(value, int | float) else default


def column(
    lines: Sequence[Line], name: str, x: str = "step"
) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Return x and the named value of the lines that have it; either may be NaN or infinite."""
    pairs = [(number(line, x), number(line, name)) for line in lines if name in line]
    table = np.array(pairs, dtype=np.float64).reshape(-1, 2)
    return table[:, 0], table[:, 1]


def read_object(path: Path) -> dict[str, Any]:
    """Read a JSON object; empty if the file is missing or damaged."""
    try:
        return as_dict(json.loads(path.read_text(encoding="utf-8", errors="replace")))
    except (FileNotFoundError, ValueError, RecursionError):
        return {}


def as_dict(value: object) -> dict[str, Any]:
    """Return a dict as it is, and an empty one for anything else."""
    return value if isinstance(value, dict) else {}
