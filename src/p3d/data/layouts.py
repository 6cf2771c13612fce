"""From what a user has to a list of labelled videos: three layouts, one reader."""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from pathlib import Path

from p3d.data.dataset import Split, VideoDataset
from p3d.data.folders import read_folders
from p3d.data.manifest import _read_manifest
from p3d.data.splits import SplitRule
from p3d.data.ucf101 import LISTS, read_ucf101
from p3d.errors import BadVideoError, UserError
from p3d.preprocessing import Preprocessing
from p3d.video.decode import open_video


def with_scale_of(dataset: VideoDataset, prep: Preprocessing) -> Preprocessing:
    """The preprocessing of a flow network that is trained on a data set: at that flow's scale."""
    for record in dataset.records if prep.channels == "flow" else ():
        try:
            with open_video(record.path) as video:
                flow = video.flow
        except BadVideoError:
            continue
        return replace(prep, flow_short_side=flow.short_side) if flow else prep
    return prep


@dataclass(frozen=True)
class DataOptions:
    """Where the videos are, and how they are divided."""

    data: Path
    """Folder with the videos, laid out like UCF101 or a folder per class; or a CSV manifest."""

    fold: int = 1
    """Which of the official splits of UCF101 to use: 1, 2 or 3."""

    allow_missing: bool = False
    """Use the listed videos that are there, and leave out those that are not."""

    splits: SplitRule = field(default_factory=SplitRule)
    """How a folder per class is divided."""


def read_dataset(options: DataOptions | Path | str, split: Split) -> VideoDataset:
    """Read one split of a data set.

    Args:
        options: Where it is and how it is divided; a path alone where nothing more is to be said.
        split: "train", "validation" or "test".

    Returns:
        The split. A validation split may be without records, which says that the data set has
        none; the others never are.

    Raises:
        UserError: There is no data set, it contradicts itself, or listed videos are missing.
    """
    if not isinstance(options, DataOptions):
        options = DataOptions(Path(options))
    dataset = _read(options, split)
    if not dataset.records and split != "validation":
        raise UserError(
            f"{options.data}: has no videos for {split}; add some, or mend the lists "
            "or the rule that divides it"
        )
    return dataset


def _read(options: DataOptions, split: Split) -> VideoDataset:
    root = options.data
    if not root.exists():
        raise UserError(f"{root}: there is no such folder or manifest; mend the path")
    if (root / LISTS).is_dir():
        _refuse_rule(options, "its own lists")
        return read_ucf101(root, split, options.fold, options.allow_missing)
    if options.fold != 1:
        raise UserError(f"--fold {options.fold}: only the UCF101 layout has folds, {root} has none")
    manifest = root if root.is_file() else root / "manifest.csv"
    if manifest.is_file():
        _refuse_rule(options, "a column for its splits")
        return _read_manifest(manifest, split, options.allow_missing)
    return read_folders(root, split, options.splits, options.allow_missing)


def _refuse_rule(options: DataOptions, reason: str) -> None:
    if options.splits != SplitRule():
        raise UserError(f"{options.data}: has {reason}; drop the rule for splits")
