"""What a checkpoint of a training run contains: its schema, and the schemas of earlier versions.

A checkpoint is a dictionary of tensors and plain values. It is all that a run needs to resume: the
network is rebuilt from its metadata.
"""

from __future__ import annotations

import math
from dataclasses import asdict, dataclass, fields
from typing import Any

from torch import Tensor

from p3d.training.comparison import RIGHT, UNREAD, WRONG
from p3d.training.progress import OF_BEST, Progress
from p3d.weights.reading import CHECKPOINT_FORMAT

VERSION = 4
"""Schema version. Files of version 1 have no version, and "rate" in place of `lr_mult`. Version 3
adds `best_loss`, `best_answers` and `improved_epoch` to the progress, version 4 `average`."""

_TYPES: dict[str, type] = {
    "model": dict,
    "metadata": dict,
    "optimizer": dict,
    "schedule": dict,
    "scaler": dict,
    "clips_per_step": int,
    "progress": dict,
    "fingerprint": dict,
    "average": dict,
}


@dataclass(frozen=True)
class CheckpointState:
    """Everything that a run needs to resume.

    Attributes:
        model: State dict of the network.
        metadata: Description of the network, see `p3d.weights.metadata.metadata_of`.
        optimizer: State dict of the optimizer.
        schedule: State dict of the learning-rate schedule.
        scaler: State dict of the loss scaler.
        clips_per_step: Clips of an optimizer step over all ranks.
        progress: Position of the run.
        fingerprint: The options that the weights depend on, by name.
        average: State dict of the averaged network; empty if weights are not averaged.
    """

    model: dict[str, Tensor]
    metadata: dict[str, str]
    optimizer: dict[str, Any]
    schedule: dict[str, Any]
    scaler: dict[str, Any]
    clips_per_step: int
    progress: Progress
    fingerprint: dict[str, str]
    average: dict[str, Tensor]

    def to_dict(self) -> dict[str, Any]:
        """Return the contents of a checkpoint file."""
        values = {item.name: getattr(self, item.name) for item in fields(self)}
        return {
            "format": CHECKPOINT_FORMAT,
            "version": VERSION,
            **values,
            "progress": asdict(self.progress),
        }

    @classmethod
    def from_dict(cls, contents: dict[str, Any]) -> CheckpointState:
        """Check the contents of a checkpoint file of any version and return them.

        Raises:
            ValueError: A value is missing or of the wrong type.
        """
        version = contents.get("version", 1)
        if version not in (1, 2, 3, VERSION):
            raise ValueError(f"its version {version} is unknown")
        if version < VERSION:
            contents = contents | {"average": {}}
        if version < 3:
            contents = contents | {"progress": _upgrade_progress(contents.get("progress"))}
        for name, expected in _TYPES.items():
            if not isinstance(contents.get(name), expected):
                raise ValueError(f"its entry {name!r} is missing or damaged")
            if not _is_valid(name, contents[name]):
                raise ValueError(f"its entry {name!r} is damaged")
        values = {name: contents[name] for name in _TYPES}
        values["progress"] = Progress(**values["progress"])
        if version == 1:
            values["optimizer"] = _upgrade_optimizer(values["optimizer"])
        return cls(**values)


def _is_valid(name: str, value: Any) -> bool:
    """Return whether the contents of an entry have the right types."""
    match name:
        case "clips_per_step":
            return type(value) is int and value > 0
        case "progress":
            return _is_valid_progress(value)
        case "model" | "average":
            return all(isinstance(k, str) and isinstance(v, Tensor) for k, v in value.items())
        case "metadata" | "fingerprint":
            return all(isinstance(k, str) and isinstance(v, str) for k, v in value.items())
        case "optimizer":
            groups = value.get("param_groups", [])
            return isinstance(groups, list) and all(isinstance(group, dict) for group in groups)
    return True


def _is_valid_progress(values: dict[Any, Any]) -> bool:
    if values.keys() != {item.name for item in fields(Progress)}:
        return False
    for item in fields(Progress):
        value = values[item.name]
        if item.name == "best_answers":
            if not isinstance(value, str) or set(value) - {RIGHT, WRONG, UNREAD}:
                return False
        elif item.name in OF_BEST:
            if value is not None and not _is_number(value):
                return False
        elif not _is_number(value) or value < 0:
            return False
        if isinstance(item.default, int) and type(value) is not int:
            return False
    return values["best_top1"] is not None and values["best_loss"] is not None


def _is_number(value: object) -> bool:
    return type(value) in (int, float) and not math.isnan(value)  # type: ignore[arg-type]


def _upgrade_progress(progress: Any) -> Any:
    """Add the fields of version 3 to the progress of earlier versions.

    There, an epoch was the best only if it raised the accuracy.
    """
    if not isinstance(progress, dict):
        return progress
    added = {"best_loss": math.inf, "best_answers": ""}
    return progress | added | {"improved_epoch": progress.get("best_epoch")}


def _upgrade_optimizer(optimizer: dict[str, Any]) -> dict[str, Any]:
    """Rename "rate", the learning-rate multiplier of version 1, to `lr_mult`."""
    groups = [
        {"lr_mult" if key == "rate" else key: value for key, value in group.items()}
        for group in optimizer.get("param_groups", [])
    ]
    return optimizer | {"param_groups": groups}
