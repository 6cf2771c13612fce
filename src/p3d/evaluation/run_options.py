"""Options of `p3d eval` that a training run answers."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import fields
from pathlib import Path
from typing import Any

from p3d.data.layouts import DataOptions
from p3d.data.splits import SplitRule
from p3d.errors import UserError
from p3d.run_folder import BEST_FILE, CONFIG_FILE, read_config, starting_folder
from p3d.system.options import option_arguments

_PATHS = {
    field.name for field in (*fields(DataOptions), *fields(SplitRule)) if "Path" in field.type
}
"""Names of the options of a data set that are paths."""


def run_arguments(folder: Path) -> list[str]:
    """Return command-line arguments that evaluate a run: its data, split rule and best weights.

    Args:
        folder: Folder of the run.

    Returns:
        Arguments with `--run`. Neither the data nor the weights need to exist.

    Raises:
        UserError: The folder holds no run, or its `config.json` cannot be read.
    """
    path = folder / CONFIG_FILE
    if not path.is_file():
        raise UserError(
            f"--run {folder}: has no {CONFIG_FILE}, so it is not a training run; give the --out "
            "of p3d train"
        )
    data = read_config(path, f"--run {path}").get("data")
    if not isinstance(data, dict):
        raise UserError(f"--run {path}: does not say which data the run used; give --data")
    data = _with_paths(data, starting_folder(folder))
    return [*option_arguments(data), f"--weights={folder / BEST_FILE}", f"--run={folder}"]


def _with_paths(data: Mapping[str, Any], base: Path) -> dict[str, Any]:
    """Return the options of a data set with paths relative to `base`, if they exist there."""
    values: dict[str, Any] = {}
    for name, value in data.items():
        if isinstance(value, dict):
            values[name] = _with_paths(value, base)
        elif name in _PATHS and isinstance(value, str) and (base / value).exists():
            values[name] = str(base / value)
        else:
            values[name] = value
    return values
