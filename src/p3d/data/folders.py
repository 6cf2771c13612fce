"""A folder per class: `ROOT/<class>/<video>`, divided into splits by a rule.

A data set that is divided already, `ROOT/{train,validation,test}/<class>/<video>`, needs no rule.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable, Sequence
from pathlib import Path

from p3d.data.dataset import Split, VideoDataset, VideoRecord, check_missing
from p3d.data.listing import read_lines, stem_of, subfolders, videos_in, visible_entries
from p3d.data.splits import SplitRule, Video, divide, with_groups
from p3d.errors import UserError

_SPLIT_FOLDERS: dict[str, Split] = {
    "train": "train",
    "validation": "validation",
    "val": "validation",
    "valid": "validation",
    "test": "test",
}


def read_folders(root: Path, split: Split, rule: SplitRule, allow_missing: bool) -> VideoDataset:
    """Read one split of a folder per class.

    Class names are the names of the folders, sorted.

    Returns:
        The split; without records where validation is asked for and nothing is set apart for it.

    Raises:
        UserError: The folder holds no classes, a class no videos, or the rule does not fit.
    """
    folders = subfolders(root)
    if not folders:
        raise UserError(f"{root}: holds no class folders; videos must lie in {root}/CLASS/")
    if _is_divided(folders):
        if rule != SplitRule():
            raise UserError(
                f"{root}: is divided into {', '.join(folders)} already; drop the rule for splits"
            )
        return _read_divided(root, folders, split)
    videos = [Video(name, video, "") for name in folders for video in _videos_of_class(root / name)]
    videos = with_groups(videos, rule.group_pattern)
    missing = 0
    if rule.train_list or rule.validation_list or rule.test_list:
        chosen, missing = _choose_by_lists(root, videos, rule, split, allow_missing)
    else:
        chosen = divide(videos, rule, str(root))[split]
    labels = {name: label for label, name in enumerate(folders)}
    records = (VideoRecord(root / v.name, labels[v.class_name], v.group) for v in chosen)
    return VideoDataset(tuple(folders), tuple(records), missing)


def _is_divided(folders: Iterable[str]) -> bool:
    names = {name.lower() for name in folders}
    return names <= _SPLIT_FOLDERS.keys() or (
        "train" in names and bool(names & (_SPLIT_FOLDERS.keys() - {"train"}))
    )


def _read_divided(root: Path, folders: Sequence[str], split: Split) -> VideoDataset:
    found: dict[str, list[Video]] = defaultdict(list)
    for folder in folders:
        kind = _SPLIT_FOLDERS.get(folder.lower())
        if kind is None:
            continue
        if kind in found:
            raise UserError(f"{root}: has two folders for {kind}; keep one")
        for name in subfolders(root / folder):
            found[kind] += [Video(name, v, folder) for v in _videos_of_class(root / folder / name)]
    class_names = sorted({video.class_name for videos in found.values() for video in videos})
    labels = {name: label for label, name in enumerate(class_names)}
    records = (VideoRecord(root / v.group / v.name, labels[v.class_name]) for v in found[split])
    return VideoDataset(tuple(class_names), tuple(records))


def _videos_of_class(folder: Path) -> list[str]:
    names = videos_in(folder)
    if not names:
        raise UserError(f"{folder}: holds no videos; add some, or move it out of the data set")
    frames = next((name for name in names if stem_of(name) == name), None)
    # One look for each class tells a tree of another depth from folders of frames.
    if frames and not any(
        entry.name.lower().endswith((".jpg", ".jpeg", ".png"))
        for entry in visible_entries(folder / frames)
    ):
        raise UserError(
            f"{folder / frames}: is neither a video file nor a folder of frames; "
            "the layout is ROOT/CLASS/VIDEO or ROOT/{train,validation,test}/CLASS/VIDEO"
        )
    return names


def _choose_by_lists(
    root: Path, videos: Sequence[Video], rule: SplitRule, split: Split, allow_missing: bool
) -> tuple[list[Video], int]:
    if rule.test_fraction or rule.validation_fraction or rule.test_groups or rule.validation_groups:
        raise UserError("give lists, or fractions or groups, for the splits: not both")
    paths = {
        "train": rule.train_list,
        "validation": rule.validation_list,
        "test": rule.test_list,
    }
    seen: dict[str, str] = {}
    wanted: list[str] = []
    for kind, path in paths.items():
        for number, line in read_lines(path) if path else ():
            name = line.replace("\\", "/").removeprefix("./")
            if name in seen:
                raise UserError(f"{path}:{number}: {name} is named in {seen[name]} already")
            seen[name] = f"{path}:{number}"
            if kind == split:
                wanted.append(name)
    if paths[split] is None and split != "validation":
        raise UserError(f"{root}: no list says which videos are for {split}; give --{split}-list")
    found = {f"{v.class_name}/{stem_of(v.file_name)}": v for v in reversed(videos)}
    found.update({video.name: video for video in videos})
    missing = [name for name in wanted if name not in found and stem_of(name) not in found]
    count = check_missing(missing, len(wanted), root, allow_missing)
    chosen = (found.get(name) or found.get(stem_of(name)) for name in wanted)
    return [video for video in chosen if video], count
