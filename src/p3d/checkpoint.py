"""Training checkpoints: one file that holds all a run needs to go on, written safely.

A checkpoint is a dictionary of tensors and plain values, written by `torch.save` and read back with
`weights_only=True`. It goes to a temporary file first, is flushed to disk and then renamed, so that
at every moment a whole checkpoint stands under the final name.
"""

from __future__ import annotations

import pickle
import zipfile
from pathlib import Path
from typing import Any

import torch

from p3d.errors import UserError
from p3d.files import replacing
from p3d.weights import CHECKPOINT_FORMAT

LAST = "last.pt"
BEST = "best.safetensors"


def write_checkpoint(path: Path, state: dict[str, Any]) -> None:
    """Write a run's state, replacing the checkpoint that stands there only when done.

    Raises:
        UserError: The disk is full or the folder cannot be written; the old checkpoint is intact.
    """
    try:
        with replacing(path) as temporary:
            torch.save({"format": CHECKPOINT_FORMAT, **state}, temporary)
    except (OSError, RuntimeError) as error:
        raise UserError(
            f"{path}: the checkpoint could not be written ({error}); free space or choose another "
            "--out (a checkpoint that stood there before is untouched)"
        ) from error


def read_checkpoint(path: Path) -> dict[str, Any]:
    """Read a run's state onto the CPU.

    Raises:
        UserError: The file is missing, damaged, or no checkpoint of p3d.
    """
    try:
        state = torch.load(path, map_location="cpu", weights_only=True)
    except FileNotFoundError as error:
        raise UserError(f"{path}: there is no such checkpoint") from error
    except (OSError, RuntimeError, EOFError, pickle.UnpicklingError, zipfile.BadZipFile) as error:
        reason = str(error).splitlines()[0] if str(error) else type(error).__name__
        raise UserError(f"{path}: the checkpoint is damaged ({reason})") from error
    if not isinstance(state, dict) or state.get("format") != CHECKPOINT_FORMAT:
        raise UserError(f"{path}: this is no training checkpoint of p3d")
    return state
