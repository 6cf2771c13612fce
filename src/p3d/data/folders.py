"""A folder per class, `ROOT/<class>/<video>`, split by a rule.

`ROOT/{train,validation,test}/<class>/<video>` is split already and needs no rule.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path

from p3d.data.dataset import SPLITS, Listed, Listing, Split, VideoRecord
from p3d.data.listing import read_lines, stem_of, subfolders, videos_in, visible_entries
from p3d.data.splits import SplitRule, Video, divide, with_groups
from p3d.errors import UserError
from p3d.video.suffixes import FRAME_SUFFIXES

_SPLIT_FOLDERS: dict[str, Split] = {
    "train": "train",
    "validation": "validation",
    "val": "validation",
    "valid": "validation",
    "test": "test",
}


def list_folders(root: Path, rule: SplitRule) -> Listing:
    """List a folder per class. Class names are the names of the folders, sorted.

    Raises:
        UserError: There are no class folders, one has no videos, or the rule does not fit.
    """
    folders = subfolders(root)
    if not folders:
        raise UserError(f"{root}: has no class folders; videos must be in {root}/CLASS/")
    if _is_divided(folders):
        if rule != SplitRule():
            raise UserError(
                f"{root}: is already split into {', '.join(folders)}; drop the split rule"
            )
        return _list_divided(root, folders)
    videos = [Video(name, video, "") for name in folders for video in _videos_of_class(root / name)]
    videos = with_groups(videos, rule.group_pattern)
    labels = {name: label for label, name in enumerate(folders)}
    records = {v: VideoRecord(root / v.name, labels[v.class_name], v.group) for v in videos}
    if rule.train_list or rule.validation_list or rule.test_list:
        return Listing(root, tuple(folders), _choose_by_lists(records, rule))
    divided = divide(videos, rule, str(root))
    splits = {split: Listed(tuple(records[v] for v in divided[split])) for split in SPLITS}
    return Listing(root, tuple(folders), splits)


def _is_divided(folders: Iterable[str]) -> bool:
    names = {name.lower() for name in folders}
    return names <= _SPLIT_FOLDERS.keys() or (
        "train" in names and bool(names & (_SPLIT_FOLDERS.keys() - {"train"}))
    )


def _list_divided(root: Path, folders: Sequence[str]) -> Listing:
    found: dict[Split, list[tuple[str, Path]]] = {}
    for folder in folders:
        split = _SPLIT_FOLDERS.get(folder.lower())
        if split is None:
            continue
        if split in found:
            raise UserError(f"{root}: has two folders for {split}; keep one")
        found[split] = [
            (name, root / folder / name / video)
            for name in subfolders(root / folder)
            for video in _videos_of_class(root / folder / name)
        ]
    class_names = sorted({name for videos in found.values() for name, _ in videos})
    labels = {name: label for label, name in enumerate(class_names)}
    splits = {
        split: Listed(tuple(VideoRecord(path, labels[name]) for name, path in found.get(split, ())))
        for split in SPLITS
    }
    return Listing(root, tuple(class_names), splits)


def _videos_of_class(folder: Path) -> list[str]:
    names = videos_in(folder)
    if not names:
        raise UserError(f"{folder}: has no videos; add some, or move it out of the data set")
    frames = next((name for name in names if stem_of(name) == name), None)
    # One check per class tells frame folders from a tree of another depth.
    if frames and not any(
        entry.name.lower().endswith(FRAME_SUFFIXES) for entry in visible_entries(folder / frames)
    ):
        raise UserError(
            f"{folder / frames}: is neither a video file nor a folder of frames; "
            "the layout is ROOT/CLASS/VIDEO or ROOT/{train,validation,test}/CLASS/VIDEO"
        )
    return names


def _choose_by_lists(
    records: Mapping[Video, VideoRecord], rule: SplitRule
) -> dict[Split, Listed | None]:
    if rule.test_fraction or rule.validation_fraction or rule.test_groups or rule.validation_groups:
        raise UserError("give lists, or fractions or groups, for the splits: not both")
    paths: dict[Split, Path | None] = {
        "train": rule.train_list,
        "validation": rule.validation_list,
        "test": rule.test_list,
    }
    by_name = {f"{v.class_name}/{stem_of(v.file_name)}": r for v, r in reversed([*records.items()])}
    by_name |= {video.name: record for video, record in records.items()}
    seen: dict[str, str] = {}
    splits: dict[Split, Listed | None] = {}
    for split, path in paths.items():
        found: list[VideoRecord] = []
        missing: list[str] = []
        for number, line in read_lines(path) if path else ():
            name = line.replace("\\", "/").removeprefix("./")
            if name in seen:
                raise UserError(f"{path}:{number}: {name} is already listed in {seen[name]}")
            seen[name] = f"{path}:{number}"
            record = by_name.get(name) or by_name.get(stem_of(name))
            if record:
                found.append(record)
            else:
                missing.append(name)
        has_list = path is not None or split == "validation"
        splits[split] = Listed(tuple(found), tuple(missing)) if has_list else None
    return splits
