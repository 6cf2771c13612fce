"""The layout of UCF101: class folders and the official lists in `ucfTrainTestlist/`.

Class and file names are matched without regard to case and Unicode form, since UCF101's own names
are inconsistent: `HandstandPushups/v_HandStandPushups_g01_c01.avi`.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import NamedTuple

from p3d.data.dataset import SPLITS, Listing, Part, Split, VideoRecord
from p3d.data.listing import (
    list_class,
    numbered_lines,
    read_text,
    spelling_key,
    split_label,
    stem_of,
    subfolders,
)
from p3d.errors import UserError

LISTS = "ucfTrainTestlist"
"""The folder that identifies this layout."""

_LIST_NAMES = {"train": "trainlist", "validation": "validationlist", "test": "testlist"}
_GROUP = re.compile(r"_g(\d+)_")

Key = tuple[str, str]
"""Class and video name, both as `spelling_key` spells them and without suffix."""


class Entry(NamedTuple):
    """A line of a list: `Class/video.avi`, its key, label and group, and `list:line`."""

    name: str
    key: Key
    label: int
    group: str
    location: str


def list_ucf101(root: Path, fold: int) -> Listing:
    """Read the lists of one fold and list the folders of videos.

    Videos are in `ROOT/{train,validation,test}/<Class>/`, `ROOT/videos/<Class>/`,
    `ROOT/UCF-101/<Class>/` or `ROOT/<Class>/`, as files or as frame folders; files take precedence.
    Labels come from `classInd.txt` (from 1 there, from 0 here). Videos of the validation list are
    removed from the training list. Without a validation list, validation is empty.

    Raises:
        UserError: A list is absent or malformed, or contradicts another.
    """
    path = root / LISTS / "classInd.txt"
    class_names = parse_classes(read_text(path), str(path))
    lists = _read_lists(root / LISTS, fold, class_names)
    videos, ignored = _list_videos(root, class_names)
    parts: dict[Part, tuple[VideoRecord, ...]] = {}
    missing: dict[Path, str] = {}
    for split, entries in lists.items():
        preferred = sorted(videos, key=lambda video: (video.is_frames, video.base != split))
        paths = {video.key: video.path for video in reversed(preferred)}
        if split == "train":
            entries = {k: e for k, e in entries.items() if k not in lists["validation"]}
        missing |= {root / e.name: e.name for key, e in entries.items() if key not in paths}
        parts[split] = tuple(
            VideoRecord(paths.get(key, root / e.name), e.label, e.group)
            for key, e in entries.items()
        )
    return Listing(root, class_names, parts, missing, ignored)


def parse_classes(text: str, source: str) -> tuple[str, ...]:
    """Return the class names in a `classInd.txt`, in the order of their labels.

    Args:
        text: Its contents.
        source: Its name in error messages.

    Raises:
        UserError: A line is not `NUMBER Class`, the numbers are not 1, 2, 3 ..., a name is repeated
            or cannot be a folder's name, or there are no classes.
    """
    names: list[str] = []
    for number, line in numbered_lines(text):
        index, *rest = line.split(maxsplit=1)
        if index != str(len(names) + 1) or not rest or rest[0] in (".", "..") or "/" in rest[0]:
            raise UserError(
                f"{source}:{number}: {line!r} should be `{len(names) + 1} ClassName`: "
                "classes are numbered from 1, one per line"
            )
        (name,) = rest
        if spelling_key(name) in map(spelling_key, names):
            raise UserError(f"{source}:{number}: class {name} is listed twice; list it once")
        names.append(name)
    if not names:
        raise UserError(f"{source}: is empty; it must have a line `1 ClassName` for each class")
    return tuple(names)


def parse_list(text: str, source: str, class_names: tuple[str, ...]) -> Iterator[Entry]:
    """Yield the lines of a list, `Class/video.avi` or `Class/video.avi LABEL` (from 1).

    Args:
        text: Its contents.
        source: Its name in error messages.
        class_names: In the order of their labels; matched without regard to case.

    Raises:
        UserError: A line is malformed, or its class or label is unknown.
    """
    labels = {spelling_key(name): label for label, name in enumerate(class_names)}
    for line_number, line in numbered_lines(text):
        location = f"{source}:{line_number}"
        name, number = split_label(line)
        parts = name.replace("\\", "/").split("/")
        if len(parts) < 2 or not all(parts[-2:]):
            raise UserError(
                f"{location}: {line!r} should be `Class/video.avi`, optionally with a label"
            )
        class_name, video = parts[-2:]
        label = labels.get(spelling_key(class_name))
        if label is None:
            raise UserError(f"{location}: class {class_name} is not in classInd.txt; add or fix it")
        if number and number.lstrip("0") != str(label + 1):
            raise UserError(
                f"{location}: label {number}, but {class_name} is {label + 1} in classInd.txt"
            )
        stem = stem_of(video)
        match = _GROUP.search(stem)
        group = f"{class_names[label]}_g{match[1]}" if match else ""
        key = (spelling_key(class_name), spelling_key(stem))
        yield Entry(f"{class_name}/{video}", key, label, group, location)


def _read_lists(
    folder: Path, fold: int, class_names: tuple[str, ...]
) -> dict[Split, dict[Key, Entry]]:
    paths = {split: folder / f"{_LIST_NAMES[split]}{fold:02d}.txt" for split in SPLITS}
    if not (paths["train"].is_file() or paths["test"].is_file()):
        folds = sorted({path.stem[-2:].lstrip("0") for path in folder.glob("t*list*.txt")})
        there = f"folds {', '.join(folds)} are there" if folds else "no lists are there"
        raise UserError(f"{folder}: has no {paths['train'].name} for fold {fold}; {there}")
    lists: dict[Split, dict[Key, Entry]] = {}
    for split, path in paths.items():
        optional = split == "validation" and not path.is_file()
        lists[split] = {} if optional else _read_list(path, class_names)
    for split in ("train", "validation"):
        for key in lists[split].keys() & lists["test"].keys():
            entry = lists[split][key]
            raise UserError(
                f"{entry.location}: {entry.name} is in the test list too "
                f"({lists['test'][key].location}); remove it from one of them"
            )
    return lists


def _read_list(path: Path, class_names: tuple[str, ...]) -> dict[Key, Entry]:
    entries: dict[Key, Entry] = {}
    for entry in parse_list(read_text(path), str(path), class_names):
        if entry.key in entries:
            raise UserError(f"{entry.location}: {entry.name} is listed twice; list it once")
        entries[entry.key] = entry
    return entries


class _Video(NamedTuple):
    key: Key
    path: Path
    base: str
    is_frames: bool


def _list_videos(root: Path, class_names: Iterable[str]) -> tuple[list[_Video], tuple[str, ...]]:
    """Return the videos in the class folders, and the names of the other files there."""
    classes = {spelling_key(name) for name in class_names}
    videos: list[_Video] = []
    ignored: list[str] = []
    # Folders of other splits count too: fold 2 uses videos that are laid out for fold 1.
    for base in (*SPLITS, "videos", "UCF-101", "."):
        for folder in subfolders(root / base):
            if spelling_key(folder) in classes:
                listed = list_class(root / base / folder)
                ignored += (Path(base, folder, name).as_posix() for name in listed.ignored)
                for name in listed.videos:
                    stem = stem_of(name)
                    key = (spelling_key(folder), spelling_key(stem))
                    videos.append(_Video(key, root / base / folder / name, base, stem == name))
    return videos, tuple(ignored)
