"""Presentation times that a folder of frames, or a file of optical flow, keeps beside its frames.

A folder has a file `frame-times.txt`: for each frame a line with its time in seconds from the first
one. Matroska rounds timestamps to milliseconds, so a file of flow has them as text in its metadata.
Without them, times follow from the rate.
"""

from __future__ import annotations

import os
from collections.abc import Mapping
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from p3d.errors import BadVideoError
from p3d.system.files import write_text

TIMES_FILE = "frame-times.txt"
"""Name of the file in a folder of frames."""

_TAG = "P3D_TIMES"
_EXACT = 1e-9
"""Seconds by which the same time may differ when it is computed in another way."""


def same_times(first: NDArray[np.float64], second: NDArray[np.float64]) -> bool:
    """Return whether times are equal but for rounding."""
    return first.shape == second.shape and bool((np.abs(first - second) <= _EXACT).all())


def write_times(folder: Path, times: NDArray[np.float64]) -> None:
    """Write the times of the frames of a folder.

    Raises:
        OSError: The file cannot be written.
    """
    write_text(folder / TIMES_FILE, "\n".join(map(str, times.tolist())) + "\n")


def read_times(folder: Path, num_frames: int) -> NDArray[np.float64] | None:
    """Read the times of the frames of a folder; None if it does not state them.

    Raises:
        BadVideoError: The file is damaged, or has times of other frames.
    """
    try:
        with open(os.path.join(folder, TIMES_FILE), encoding="ascii") as file:  # noqa: PTH118, PTH123
            return _parse(file.read(), num_frames)
    except FileNotFoundError:
        return None
    except (OSError, ValueError) as error:
        raise BadVideoError(
            folder, f"{TIMES_FILE} cannot be used ({error}); mend it, or delete it"
        ) from error


def times_tags(times: NDArray[np.float64]) -> dict[str, str]:
    """Return times as container metadata."""
    return {_TAG: " ".join(map(str, times.tolist()))}


def read_times_tag(tags: Mapping[str, str], num_frames: int) -> NDArray[np.float64] | None:
    """Read container metadata; None if it has no times.

    Raises:
        ValueError: It is damaged.
    """
    return _parse(tags[_TAG], num_frames) if _TAG in tags else None


def _parse(text: str, num_frames: int) -> NDArray[np.float64]:
    words = text.split()
    if len(words) != num_frames:
        raise ValueError(f"{len(words)} times for {num_frames} frames")
    times = np.array(list(map(float, words)))
    if times[0] != 0 or not np.isfinite(times).all() or (np.diff(times) <= 0).any():
        raise ValueError("times are seconds from 0, each after the one before")
    return times
