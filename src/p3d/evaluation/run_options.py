"""Options of `p3d eval` that a training run answers."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import fields, is_dataclass, replace
from pathlib import Path
from typing import Any

from p3d.data.layouts import DataOptions
from p3d.data.splits import SplitRule
from p3d.errors import UserError
from p3d.run_folder import BEST_FILE, CONFIG_FILE, read_config, starting_folder
from p3d.system.options import option_arguments
from p3d.system.spelling import ask_meant

_PATHS = {
    field.name for field in (*fields(DataOptions), *fields(SplitRule)) if "Path" in field.type
}
"""Names of the options of a data set that are paths."""


def run_arguments(folders: Path | Sequence[Path]) -> list[str]:
    """Return command-line arguments that evaluate a run: its data, split rule and best weights.

    Args:
        folders: Folder of the run. Of several, the first one counts; see `data_of_runs`.

    Returns:
        Arguments with `--run`. Neither the data nor the weights need to exist.

    Raises:
        UserError: The folder holds no run, or its `config.json` cannot be read.
    """
    folders = [folders] if isinstance(folders, Path) else folders
    if not folders:
        raise UserError("--run needs the folder of a training run")
    folder = folders[0]
    data = option_arguments(_data_of(folder))
    return [*data, f"--weights={folder / BEST_FILE}", f"--run={folder}"]


def data_of_runs(folders: Sequence[Path], first: DataOptions) -> list[DataOptions]:
    """Return the data set and split rule of each of several runs.

    Args:
        folders: Folders of the runs.
        first: The data options of the first run. Where they differ from its own, they were given
            on the command line, and hold for all runs.

    Raises:
        UserError: A folder holds no run, or its `config.json` cannot be read.
    """
    own = _options_from(DataOptions, _data_of(folders[0]))
    others = [_options_from(DataOptions, _data_of(folder)) for folder in folders[1:]]
    return [first, *(_with_changes(other, own, first) for other in others)]


def _options_from(kind: Any, values: Mapping[str, Any]) -> Any:
    """Return a dataclass of options from the values in a `config.json`."""
    known: dict[str, Any] = {}
    for field in fields(kind):
        if field.name in values:
            value = values[field.name]
            is_path = field.name in _PATHS and isinstance(value, str)
            known[field.name] = Path(value) if is_path else value
    if "splits" in known:
        known["splits"] = _options_from(SplitRule, known["splits"])
    return kind(**known)


def _with_changes(other: Any, before: Any, after: Any) -> Any:
    """Return options with the values in which `after` differs from `before`."""
    changes: dict[str, Any] = {}
    for field in fields(other):
        mine, old, new = (getattr(each, field.name) for each in (other, before, after))
        if is_dataclass(mine):
            changes[field.name] = _with_changes(mine, old, new)
        elif old != new:
            changes[field.name] = new
    return replace(other, **changes)


def _data_of(folder: Path) -> dict[str, Any]:
    """Return the options of the data set of a run, with paths that hold in the current folder."""
    path = folder / CONFIG_FILE
    if not path.is_file():
        remedy = "give the --out of p3d train"
        if not folder.exists():
            raise UserError(f"--run {folder}: no such folder; {ask_meant(folder, remedy)}")
        raise UserError(
            f"--run {folder}: has no {CONFIG_FILE}, so it is not a training run; {remedy}"
        )
    data = read_config(path, f"--run {path}").get("data")
    if not isinstance(data, dict):
        raise UserError(f"--run {path}: does not say which data the run used; give --data")
    return _with_paths(data, starting_folder(folder))


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
