"""A folder per class, `ROOT/<class>/<video>`, split by a rule.

`ROOT/{train,validation,test}/<class>/<video>` is split already and needs no rule.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import Path

from p3d.data.dataset import SPLITS, Listed, Listing, Split, VideoRecord, examples
from p3d.data.listing import (
    ClassFolder,
    find_clash,
    list_class,
    read_lines,
    spelling_key,
    split_label,
    stem_of,
    subfolders,
    visible_entries,
)
from p3d.data.splits import SplitRule, Video, divide, with_groups
from p3d.errors import UserError
from p3d.video.suffixes import FRAME_SUFFIXES

_SPLIT_FOLDERS: dict[str, Split] = {
    "train": "train",
    "validation": "validation",
    "val": "validation",
    "valid": "validation",
    "validate": "validation",
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
    _check_spelling(root, folders)
    listed = {name: _list_class(root / name) for name in folders}
    ignored = tuple(f"{name}/{file}" for name in folders for file in listed[name].ignored)
    videos = [Video(name, video, "") for name in folders for video in listed[name].videos]
    videos = with_groups(videos, rule.group_pattern)
    labels = {name: label for label, name in enumerate(folders)}
    records = {v: VideoRecord(root / v.name, labels[v.class_name], v.group) for v in videos}
    if rule.train_list or rule.validation_list or rule.test_list:
        return Listing(root, tuple(folders), _choose_by_lists(records, rule), ignored)
    divided = divide(videos, rule, str(root))
    splits = {split: Listed(tuple(records[v] for v in divided[split])) for split in SPLITS}
    return Listing(root, tuple(folders), splits, ignored)


def _is_divided(folders: Iterable[str]) -> bool:
    names = {name.lower() for name in folders}
    return names <= _SPLIT_FOLDERS.keys() or (
        "train" in names and bool(names & (_SPLIT_FOLDERS.keys() - {"train"}))
    )


def _list_divided(root: Path, folders: Sequence[str]) -> Listing:
    found: dict[Split, list[tuple[str, Path]]] = {}
    ignored: list[str] = []
    for folder in folders:
        split = _SPLIT_FOLDERS.get(folder.lower())
        if split is None:
            ignored.append(f"{folder}/")
            continue
        if split in found:
            raise UserError(f"{root}: has two folders for {split}; keep one")
        found[split] = []
        for name in subfolders(root / folder):
            listed = _list_class(root / folder / name)
            found[split] += ((name, root / folder / name / video) for video in listed.videos)
            ignored += (f"{folder}/{name}/{file}" for file in listed.ignored)
    class_names = sorted({name for videos in found.values() for name, _ in videos})
    _check_spelling(root, class_names)
    labels = {name: label for label, name in enumerate(class_names)}
    splits = {
        split: Listed(tuple(VideoRecord(path, labels[name]) for name, path in found.get(split, ())))
        for split in SPLITS
    }
    return Listing(root, tuple(class_names), splits, tuple(ignored))


def _check_spelling(root: Path, class_names: Iterable[str]) -> None:
    clash = find_clash(class_names)
    if clash:
        raise UserError(
            f"{root}: the classes {clash[0]!a} and {clash[1]!a} differ only in case or "
            "Unicode form; rename one folder, or give a manifest with the column label"
        )


def _list_class(folder: Path) -> ClassFolder:
    listed = list_class(folder)
    if not listed.videos:
        files = f"only {examples(listed.ignored)}; convert them" if listed.ignored else "add some"
        raise UserError(f"{folder}: has no videos, {files}, or move it out of the data set")
    frames = next((name for name in listed.videos if stem_of(name) == name), None)
    # One check per class tells frame folders from a tree of another depth.
    if frames and not any(
        entry.name.lower().endswith(FRAME_SUFFIXES) for entry in visible_entries(folder / frames)
    ):
        raise UserError(
            f"{folder / frames}: is neither a video file nor a folder of frames; "
            "the layout is ROOT/CLASS/VIDEO or ROOT/{train,validation,test}/CLASS/VIDEO"
        )
    return listed


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
    find = _make_finder(records)
    seen: dict[str, str] = {}
    splits: dict[Split, Listed | None] = {}
    for split, path in paths.items():
        found: list[VideoRecord] = []
        missing: list[str] = []
        for number, line in read_lines(path) if path else ():
            name = line.replace("\\", "/").removeprefix("./")
            video = find(name)
            if video is None and find(split_label(name)[0]):
                raise UserError(
                    f"{path}:{number}: {line!r} should be `CLASS/VIDEO` without a label; give "
                    "lists with labels to p3d prepare manifest"
                )
            key = str(video.path) if video else name
            if key in seen:
                raise UserError(f"{path}:{number}: {name} is already listed in {seen[key]}")
            seen[key] = f"{path}:{number}"
            if video:
                found.append(video)
            else:
                missing.append(name)
        has_list = path is not None or split == "validation"
        splits[split] = Listed(tuple(found), tuple(missing)) if has_list else None
    return splits


def _make_finder(
    records: Mapping[Video, VideoRecord],
) -> Callable[[str], VideoRecord | None]:
    """Return a function that finds a record by the name of its video in a list.

    Names may lack the suffix, and be spelled differently if only one video fits.
    """
    by_name = {f"{v.class_name}/{stem_of(v.file_name)}": r for v, r in reversed([*records.items()])}
    by_name |= {video.name: record for video, record in records.items()}
    by_spelling: dict[str, set[VideoRecord]] = {}
    for name, record in by_name.items():
        by_spelling.setdefault(spelling_key(name), set()).add(record)

    def find(name: str) -> VideoRecord | None:
        if exact := by_name.get(name) or by_name.get(stem_of(name)):
            return exact
        keys = (spelling_key(name), spelling_key(stem_of(name)))
        spelled = by_spelling.get(keys[0]) or by_spelling.get(keys[1]) or set()
        return next(iter(spelled)) if len(spelled) == 1 else None

    return find
