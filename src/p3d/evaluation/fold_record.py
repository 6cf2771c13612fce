"""`folds.json`: what `p3d folds` was started with, and which folds are finished."""

from __future__ import annotations

import json
from dataclasses import asdict, dataclass, field
from pathlib import Path

from p3d.errors import UserError
from p3d.run_folder import FOLDS_FILE, find_checkpoints
from p3d.system.files import write_json
from p3d.training.options import check_same

_FORMAT = {"format": "p3d folds", "version": 1}


@dataclass
class FoldRecord:
    """The state of all folds.

    Attributes:
        options: What the scores depend on, by name, as text.
        folders: Names of the folds' folders.
        finished: Names of those that are trained and scored.
    """

    options: dict[str, str]
    folders: list[str]
    finished: list[str] = field(default_factory=list)

    def write(self, out: Path) -> None:
        """Write the file."""
        write_json(out / FOLDS_FILE, _FORMAT | asdict(self))

    def has_work(self, out: Path) -> bool:
        """Return whether a fold is finished, or has a checkpoint."""
        return bool(self.finished) or any(find_checkpoints(out / name) for name in self.folders)

    def check(self, out: Path, now: FoldRecord) -> None:
        """Check that other options are the same.

        Raises:
            UserError: They differ; the message names the first difference.
        """
        remedy = "give the same options, or choose another --out"
        check_same(f"the run in {out}", self.options, now.options, remedy)


def read_record(out: Path) -> FoldRecord | None:
    """Return the state of the folds in a folder; None if the folder is new or empty.

    Raises:
        UserError: The folder holds something else, or the file cannot be read.
    """
    path = out / FOLDS_FILE
    if not path.exists():
        if out.is_dir() and any(entry.name != ".lock" for entry in out.iterdir()):
            raise UserError(
                f"--out {out}: holds other files, but no {FOLDS_FILE} of p3d folds; choose a new "
                "folder"
            )
        return None
    try:
        values = json.loads(path.read_text(encoding="utf-8"))
        if {name: values[name] for name in _FORMAT} != _FORMAT:
            raise UserError(f"{path}: is of another version of p3d; choose another --out")
        return FoldRecord(dict(values["options"]), [*values["folders"]], [*values["finished"]])
    except (OSError, ValueError, KeyError, TypeError, RecursionError) as error:
        raise UserError(f"{path}: is damaged ({error}); choose another --out") from error
