"""Weights that may be replaced while a command works, as those of a running training are."""

from __future__ import annotations

import logging
from collections.abc import Callable
from pathlib import Path
from typing import TypeVar

from p3d.errors import UserError
from p3d.system.files import file_sha256

Network = TypeVar("Network")


def load_unchanged(path: Path, sha256: str, load: Callable[[Path], Network]) -> Network:
    """Load the weights that a run began with.

    Args:
        path: The file.
        sha256: Its SHA-256 when the run began.
        load: Reads the file.

    Raises:
        UserError: It cannot be read, or was replaced.
    """
    _check(path, sha256)
    network = load(path)
    _check(path, sha256)  # it may have been replaced while it was read
    return network


def leave_out_notes() -> None:
    """Print no notes on weights in this worker process, since the command has printed them."""
    logging.getLogger("p3d.weights").setLevel(logging.ERROR)


def _check(path: Path, sha256: str) -> None:
    try:
        found = file_sha256(path)
    except OSError as error:
        raise UserError(
            f"{path}: cannot be read ({error.strerror}); put the weights where every worker can "
            "read them"
        ) from error
    if found != sha256:
        raise UserError(
            f"{path}: was replaced during the run (SHA-256 {found[:8]}, not {sha256[:8]}); put the "
            "old file back, or choose another --out"
        )
