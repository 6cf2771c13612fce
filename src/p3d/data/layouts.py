"""Reading a data set in any of three layouts.

* UCF101: a folder with the official lists in `ucfTrainTestlist/`, see `p3d.data.ucf101`.
* A manifest: a CSV file, or a folder with a `manifest.csv`, see `p3d.data.manifest`.
* Folders of videos: any other folder, see `p3d.data.folders`.

A split rule divides the videos of any layout, see `p3d.data.splits`.
"""

from __future__ import annotations

import os
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path

from p3d.data.background import add_background, check_background
from p3d.data.dataset import SPLITS, Listing, Part, Split, VideoDataset
from p3d.data.folders import list_folders, would_search
from p3d.data.listing import list_folder
from p3d.data.manifest import find_videos, read_manifest
from p3d.data.rates import check_rate
from p3d.data.splits import SplitRule, apply_rule
from p3d.data.ucf101 import LISTS, list_ucf101
from p3d.errors import UserError, check_choice
from p3d.system.spelling import ask_meant


@dataclass(frozen=True)
class DataOptions:
    """Where the videos are, what their classes are, and how they are split."""

    data: Path
    """Folder of videos, laid out like UCF101 or as a folder per class; or a CSV file with the
    columns path and class."""

    fold: int = 1
    """Which of UCF101's official splits to use: 1, 2 or 3."""

    allow_missing: bool = False
    """Skip listed videos that are not there."""

    splits: SplitRule = field(default_factory=SplitRule)
    """How the videos are divided."""

    class_pattern: str | None = None
    """Regular expression with one pair of parentheses that captures the class in a video's path
    below --data, without suffix. _([^_]+)$ captures what follows the last underscore. By default,
    the class is the folder of the video."""

    frame_rate: float | None = None
    """Frames per second of folders of frames for which a manifest states none; by default 25 are
    assumed."""

    background: bool = False
    """Add a class "background": pieces of the parts that no segment of a manifest covers, at most
    as many as a file has segments, and as long."""

    def __post_init__(self) -> None:
        """Convert a string to a path, and check the rate."""
        check_rate("--frame-rate", self.frame_rate)
        if isinstance(self.data, str):
            object.__setattr__(self, "data", Path(self.data))


def list_dataset(options: DataOptions, splits: Sequence[Split] = SPLITS) -> Listing:
    """Read the lists of a data set and list its folders, each once.

    Args:
        options: Where it is and how it is split; `allow_missing` has no effect.
        splits: Splits to look for the videos of.

    Returns:
        The listing; its videos are undivided if nothing says how to divide them.

    Raises:
        UserError: There is no data set, or a list or the split rule is wrong, even if for another
            split.
    """
    root = options.data
    if not root.exists():
        raise UserError(f"{root}: no such folder or manifest; {ask_meant(root, 'fix the path')}")
    listing = _with_rate(_list(options, splits), options.frame_rate)
    return add_background(listing) if options.background else listing


def _list(options: DataOptions, splits: Sequence[Split]) -> Listing:
    root, rule = options.data, options.splits
    has_lists = (root / LISTS).is_dir()
    if options.fold != 1 and not has_lists:
        raise UserError(f"--fold {options.fold}: only the UCF101 layout has folds, {root} has none")
    manifest = root if root.is_file() else root / "manifest.csv"
    if options.background and (has_lists or not manifest.is_file()):
        raise UserError(
            f"{root}: --background needs a manifest with segments (columns start and end)"
        )
    if not has_lists and not manifest.is_file():
        return apply_rule(list_folders(root, options.class_pattern), rule)
    if options.class_pattern is not None:
        source = root / LISTS if has_lists else manifest
        raise UserError(f"{source}: names the classes already; drop --class-pattern")
    if has_lists:
        return apply_rule(list_ucf101(root, options.fold), rule)
    listing = read_manifest(manifest)
    if options.background:
        check_background(listing)
    is_whole = rule.divides or not listing.is_divided
    return apply_rule(find_videos(listing, tuple(listing.parts) if is_whole else splits), rule)


def _with_rate(listing: Listing, rate: float | None) -> Listing:
    """Return the videos with a frame rate where none is listed."""
    if rate is None:
        return listing
    parts = {
        part: None if records is None else tuple(replace(r, fps=r.fps or rate) for r in records)
        for part, records in listing.parts.items()
    }
    return replace(listing, parts=parts)


def check_outside(options: DataOptions, out: Path) -> None:
    """Check that a folder for results would not be taken for a class of the data set.

    Args:
        options: The data set.
        out: The folder; need not exist.

    Raises:
        UserError: It is inside a folder of class folders.
    """
    root = options.data
    has_lists = root.is_file() or (root / LISTS).is_dir() or (root / "manifest.csv").is_file()
    if not has_lists and options.class_pattern is None and would_search(root, out):
        raise UserError(
            f"--out {out}: is inside the data set {root} and would be taken for a class; choose a "
            "folder elsewhere"
        )


def check_apart(data: Path, out: Path, videos: Iterable[Path]) -> None:
    """Check that a folder with a file or folder for each video is not a part of the data set.

    Args:
        data: The data set.
        out: The folder; need not exist.
        videos: The videos of the data set.

    Raises:
        UserError: It is the folder of the data set, or inside one that is searched for videos.
    """
    source, target = data.resolve(), out.resolve()
    if target in (source, source.parent):
        raise UserError(f"--out {out}: holds the data set itself; choose another folder")
    has_lists = (data / LISTS).is_dir()
    if not has_lists and (data.is_file() or (data / "manifest.csv").is_file()):
        return  # only what the manifest lists is a part of it
    folders = {video.parent.resolve() for video in videos} | (set() if has_lists else {source})
    if inside := folders & {target, *target.parents}:
        raise UserError(
            f"--out {out}: would become a part of the data set, since it is inside {min(inside)}; "
            "choose a folder elsewhere"
        )


def check_among(folders: Iterable[Path], out: Path) -> None:
    """Check that a folder for results would not be taken for a class, where videos are in folders.

    Args:
        folders: What the user gave; they may be data sets of class folders.
        out: The folder; need not exist.

    Raises:
        UserError: It is inside such a data set.
    """
    for folder in folders:
        # Not the method of Path, which raises for long names.
        is_inside = os.path.isdir(folder) and out.resolve().is_relative_to(folder.resolve())  # noqa: PTH112
        if is_inside and not list_folder(folder).videos:
            check_outside(DataOptions(folder), out)


def read_splits(
    options: DataOptions | Path | str, splits: Sequence[Split] = SPLITS
) -> dict[Split, VideoDataset]:
    """Read several splits of a data set, listing its folders only once; see `read_dataset`.

    If several splits are at fault, the first one is reported.
    """
    options = _as_options(options)
    listing = list_dataset(options, splits)
    return {split: listing.dataset(split, allow_missing=options.allow_missing) for split in splits}


def read_parts(options: DataOptions) -> dict[Part, VideoDataset]:
    """Read all splits that have videos; if nothing divides the data set, all by the key None."""
    listing = list_dataset(options)
    parts = [part for part, records in listing.parts.items() if records] or ["train"]
    return {part: listing.dataset(part, allow_missing=options.allow_missing) for part in parts}


def read_dataset(options: DataOptions | Path | str, split: Split) -> VideoDataset:
    """Read one split of a data set.

    Args:
        options: Where it is and how it is split, or just its path.
        split: "train", "validation" or "test".

    Returns:
        The split. A validation split without records means that the data set has none; the other
        splits are never empty.

    Raises:
        UserError: There is no data set, nothing divides it, a list or the split rule is wrong (even
            if for another split), the split has another name or no videos, or listed videos of it
            are missing.
    """
    check_choice("split", split, SPLITS)
    return read_splits(options, (split,))[split]


def read_videos(options: DataOptions | Path | str) -> VideoDataset:
    """Read all labeled videos of a data set with their groups, whatever their splits.

    Args:
        options: Where it is, or just its path. Of the split rule, only the group pattern is used.

    Returns:
        All videos. In the layout of UCF101, all that are in a list of the fold.

    Raises:
        UserError: There is no data set, a list or the group pattern is wrong, there are no videos,
            or listed videos are missing.
    """
    options = _as_options(options)
    rule = SplitRule(group_pattern=options.splits.group_pattern)
    options = replace(options, splits=rule)
    return list_dataset(options).all_videos(allow_missing=options.allow_missing)


def _as_options(options: DataOptions | Path | str) -> DataOptions:
    return options if isinstance(options, DataOptions) else DataOptions(Path(options))
