"""Reading a data set in any of three layouts.

* UCF101: a folder with the official lists in `ucfTrainTestlist/`, see `p3d.data.ucf101`.
* A manifest: a CSV file, or a folder with a `manifest.csv`, see `p3d.data.manifest`.
* A folder per class: any other folder, see `p3d.data.folders`.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path

from p3d.data.dataset import SPLITS, Listing, Split, VideoDataset
from p3d.data.folders import list_folders
from p3d.data.manifest import list_manifest
from p3d.data.splits import SplitRule
from p3d.data.ucf101 import LISTS, list_ucf101
from p3d.errors import UserError


@dataclass(frozen=True)
class DataOptions:
    """Where the videos are and how they are split."""

    data: Path
    """Folder of videos, laid out like UCF101 or as a folder per class; or a CSV manifest."""

    fold: int = 1
    """Which of UCF101's official splits to use: 1, 2 or 3."""

    allow_missing: bool = False
    """Skip listed videos that are not there."""

    splits: SplitRule = field(default_factory=SplitRule)
    """How a folder per class is split."""


def list_dataset(options: DataOptions, splits: Sequence[Split] = SPLITS) -> Listing:
    """Read the lists of a data set and list its folders, each once.

    Args:
        options: Where it is and how it is split; `allow_missing` has no effect.
        splits: Splits to look for the videos of.

    Raises:
        UserError: There is no data set, or a list or the split rule is wrong, even if for another
            split.
    """
    root = options.data
    if not root.exists():
        raise UserError(f"{root}: no such folder or manifest; fix the path")
    if (root / LISTS).is_dir():
        _refuse_rule(options, "its own lists")
        return list_ucf101(root, options.fold)
    if options.fold != 1:
        raise UserError(f"--fold {options.fold}: only the UCF101 layout has folds, {root} has none")
    manifest = root if root.is_file() else root / "manifest.csv"
    if manifest.is_file():
        _refuse_rule(options, "a column for its splits")
        return list_manifest(manifest, splits)
    return list_folders(root, options.splits)


def _refuse_rule(options: DataOptions, reason: str) -> None:
    if options.splits != SplitRule():
        raise UserError(f"{options.data}: has {reason}; drop the split rule")


def read_splits(
    options: DataOptions | Path | str, splits: Sequence[Split] = SPLITS
) -> dict[Split, VideoDataset]:
    """Read several splits of a data set, listing its folders only once; see `read_dataset`.

    If several splits are at fault, the first one is reported.
    """
    if not isinstance(options, DataOptions):
        options = DataOptions(Path(options))
    listing = list_dataset(options, splits)
    return {split: listing.dataset(split, allow_missing=options.allow_missing) for split in splits}


def read_dataset(options: DataOptions | Path | str, split: Split) -> VideoDataset:
    """Read one split of a data set.

    Args:
        options: Where it is and how it is split, or just its path.
        split: "train", "validation" or "test".

    Returns:
        The split. A validation split without records means that the data set has none; the other
        splits are never empty.

    Raises:
        UserError: There is no data set, a list or the split rule is wrong (even if for another
            split), the split has no videos, or listed videos of the split are missing.
    """
    return read_splits(options, (split,))[split]
