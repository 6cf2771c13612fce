"""The runs of `p3d folds`: which videos each trains on, and which it is measured on."""

from __future__ import annotations

import hashlib
import re
from collections.abc import Sequence
from dataclasses import dataclass, fields, replace
from pathlib import Path
from typing import Literal

import numpy as np

from p3d.data.dataset import Listing, VideoDataset
from p3d.data.layouts import list_dataset
from p3d.data.splits import SplitRule, apply_rule
from p3d.errors import UserError
from p3d.evaluation.probe_folds import Fold, check_classes, folds_by_group
from p3d.training.options import TrainOptions


@dataclass(frozen=True)
class FoldRun:
    """The training of a fold.

    Attributes:
        name: Name of the fold: the group that is held out, or its number.
        options: Options of `p3d train`; the test groups are those held out, and the fold's folder
            is `out`.
        training: The training list.
        validation: The validation list; may be empty.
        held_out: Number of held-out videos.
    """

    name: str
    options: TrainOptions
    training: VideoDataset
    validation: VideoDataset
    held_out: int

    @property
    def folder(self) -> Path:
        """The folder of the run."""
        return self.options.out


def plan_folds(
    options: TrainOptions, number: Literal["groups"] | int
) -> tuple[VideoDataset, list[FoldRun]]:
    """Divide the videos of a data set.

    Args:
        options: Options of all folds; `out` is the folder above theirs.
        number: "groups" leaves one group out in turn; else the number of folds of whole groups.

    Returns:
        All videos, and the runs in the order of the folds.

    Raises:
        UserError: The videos cannot be divided so, or a fold lacks training videos of a class.
    """
    rule = options.data.splits
    if others := [flag for flag in rule.options if flag != "--validation-fraction"]:
        raise UserError(
            f"{others[0]}: p3d folds chooses the test videos itself; drop it, or give "
            "--validation-fraction for videos to choose the best epoch by"
        )
    data = replace(options.data, splits=SplitRule(group_pattern=rule.group_pattern))
    listing = list_dataset(data)
    videos = listing.all_videos(allow_missing=data.allow_missing)
    groups = [record.group for record in videos.records]
    folds = folds_by_group(groups, None if number == "groups" else number)
    width = max(2, len(str(len(folds))))
    runs = []
    for place, fold in enumerate(folds, start=1):
        label = f"-{_file_name(fold.name)}" if number == "groups" else ""
        held_out = sorted({groups[row] for row in fold.test.tolist()})
        out = options.out / f"fold-{place:0{width}d}{label}"
        runs.append(_plan(options, listing, fold, held_out, out))
    _check_training(videos, folds, runs)
    return videos, runs


def _plan(
    options: TrainOptions, listing: Listing, fold: Fold, held_out: Sequence[str], out: Path
) -> FoldRun:
    rule = replace(options.data.splits, test_groups=tuple(held_out))
    # The listing has the groups that the pattern captures.
    divided = apply_rule(listing, replace(rule, group_pattern=None))
    training = divided.dataset("train", allow_missing=options.data.allow_missing)
    validation = VideoDataset(training.class_names, ())
    if "validation" in rule.choices:
        validation = divided.dataset("validation", allow_missing=options.data.allow_missing)
    values = {field.name: getattr(options, field.name) for field in fields(TrainOptions)}
    own = {"data": replace(options.data, splits=rule), "out": out, "resume": True, "plan": False}
    return FoldRun(fold.name, TrainOptions(**values | own), training, validation, len(fold.test))


def _check_training(videos: VideoDataset, folds: Sequence[Fold], runs: Sequence[FoldRun]) -> None:
    """Check the classes of the training videos, without those for validation."""
    rows = {record.path: row for row, record in enumerate(videos.records)}
    trained = [
        fold._replace(train=np.array([rows[r.path] for r in run.training.records], np.int64))
        for fold, run in zip(folds, runs, strict=True)
    ]
    labels = np.array([record.label for record in videos.records], np.int64)
    check_classes(trained, labels, videos.class_names)


def _file_name(group: str) -> str:
    """Return the name of a group as a part of a folder's name."""
    return re.sub(r"[^\w.-]+", "_", group)[:40]


def describe_division(runs: Sequence[FoldRun]) -> str:
    """Return the number of folds, and a hash of what each one holds out."""
    lines = [f"{run.folder.name} {sorted(run.options.data.splits.test_groups)}" for run in runs]
    text = "\n".join(lines).encode("utf-8", "surrogateescape")
    return f"{len(runs)} ({hashlib.blake2b(text, digest_size=8).hexdigest()})"
