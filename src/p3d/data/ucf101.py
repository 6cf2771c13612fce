"""The layout of UCF101: class folders beside the official lists in `ucfTrainTestlist/`.

Class and file names are compared without regard to case, since the data set's own differ:
`HandstandPushups/v_HandStandPushups_g01_c01.avi`.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import NamedTuple

from p3d.data.dataset import SPLITS, Split, VideoDataset, VideoRecord, check_missing
from p3d.data.listing import numbered_lines, read_text, stem_of, subfolders, videos_in
from p3d.errors import UserError

LISTS = "ucfTrainTestlist"
"""The folder that marks this layout."""

_FILES = {"train": "trainlist", "validation": "validationlist", "test": "testlist"}
_GROUP = re.compile(r"_g(\d+)_")
_NO_NAMES = (".", "..")

Key = tuple[str, str]
"""Class and video name, both in lower case and without suffix."""


class Entry(NamedTuple):
    """A line of a list: `Class/video.avi`, its key, label from 0, group and place in the list."""

    name: str
    key: Key
    label: int
    group: str
    place: str


def read_ucf101(root: Path, split: Split, fold: int, allow_missing: bool) -> VideoDataset:
    """Read one split of one fold.

    Videos lie in `ROOT/{train,validation,test}/<Class>/`, `ROOT/videos/<Class>/`,
    `ROOT/UCF-101/<Class>/` or `ROOT/<Class>/`, as files or as folders of JPEG frames; a file wins.
    Labels come from `classInd.txt` (from 1 there, from 0 here). What the validation list names is
    taken out of the training list, whether that names it or not.

    Returns:
        The split; without records where the fold has no validation list and that is asked for.

    Raises:
        UserError: A list is absent, malformed or contradicts another, or videos are missing.
    """
    path = root / LISTS / "classInd.txt"
    class_names = parse_classes(read_text(path), str(path))
    lists = _read_lists(root / LISTS, fold, class_names)
    entries = lists[split]
    if split == "train":
        entries = {key: entry for key, entry in entries.items() if key not in lists["validation"]}
    paths = _find_videos(root, split, class_names)
    absent = [entry.name for key, entry in entries.items() if key not in paths]
    records = tuple(
        VideoRecord(paths[key], entry.label, entry.group)
        for key, entry in entries.items()
        if key in paths
    )
    missing = check_missing(absent, len(entries), root, allow_missing)
    return VideoDataset(class_names, records, missing)


def parse_classes(text: str, where: str) -> tuple[str, ...]:
    """The class names of a `classInd.txt`, in the order of their labels.

    Args:
        text: What is in it.
        where: What errors are to call it.

    Raises:
        UserError: A line is not `NUMBER Class`, numbers do not count from 1, a name is no folder's
            name, stands there twice, or there is none.
    """
    names: list[str] = []
    for number, line in numbered_lines(text):
        index, *rest = line.split(maxsplit=1)
        if index != str(len(names) + 1) or not rest or rest[0] in _NO_NAMES or "/" in rest[0]:
            raise UserError(
                f"{where}:{number}: {line!r} should be `{len(names) + 1} ClassName`: "
                "classes are numbered from 1, one a line"
            )
        (name,) = rest
        if name.lower() in map(str.lower, names):
            raise UserError(f"{where}:{number}: class {name} stands there twice; name it once")
        names.append(name)
    if not names:
        raise UserError(f"{where}: is empty; it must hold a line `1 ClassName` for each class")
    return tuple(names)


def _read_lists(
    folder: Path, fold: int, class_names: tuple[str, ...]
) -> dict[Split, dict[Key, Entry]]:
    paths = {split: folder / f"{_FILES[split]}{fold:02d}.txt" for split in SPLITS}
    if not (paths["train"].is_file() or paths["test"].is_file()):
        folds = sorted({path.stem[-2:].lstrip("0") for path in folder.glob("t*list*.txt")})
        there = f"folds {', '.join(folds)} are there" if folds else "no lists are there"
        raise UserError(f"{folder}: has no {paths['train'].name} for fold {fold}; {there}")
    lists: dict[Split, dict[Key, Entry]] = {}
    for split, path in paths.items():
        optional = split == "validation" and not path.is_file()
        lists[split] = {} if optional else _without_repeats(path, class_names)
    for split in ("train", "validation"):
        for key in lists[split].keys() & lists["test"].keys():
            raise UserError(
                f"{lists[split][key].place}: {lists[split][key].name} is in the test list too "
                f"({lists['test'][key].place}); take it out of one of them"
            )
    return lists


def parse_list(text: str, where: str, class_names: tuple[str, ...]) -> Iterator[Entry]:
    """The lines of a list, `Class/video.avi` or `Class/video.avi LABEL` with labels from 1.

    Args:
        text: What is in it.
        where: What errors are to call it.
        class_names: In the order of the labels; matched without regard to case.

    Raises:
        UserError: A line is not of that form, or its class or label is not that of any class.
    """
    labels = {name.lower(): label for label, name in enumerate(class_names)}
    for number, line in numbered_lines(text):
        yield _parse(line, f"{where}:{number}", labels, class_names)


def _without_repeats(path: Path, class_names: tuple[str, ...]) -> dict[Key, Entry]:
    entries: dict[Key, Entry] = {}
    for entry in parse_list(read_text(path), str(path), class_names):
        if entry.key in entries:
            raise UserError(f"{entry.place}: {entry.name} stands there twice; name it once")
        entries[entry.key] = entry
    return entries


def _parse(line: str, place: str, labels: dict[str, int], class_names: tuple[str, ...]) -> Entry:
    name, *rest = line.rsplit(maxsplit=1)
    number = rest[0] if rest and rest[0].isdigit() else ""
    parts = (name if number else line).replace("\\", "/").split("/")
    if len(parts) < 2 or not all(parts[-2:]):
        raise UserError(f"{place}: {line!r} should be `Class/video.avi`, maybe with a label behind")
    class_name, video = parts[-2:]
    label = labels.get(class_name.lower())
    if label is None:
        raise UserError(f"{place}: class {class_name} is not in classInd.txt; add it or mend it")
    if number and int(number) != label + 1:
        raise UserError(f"{place}: label {number}, but {class_name} is {label + 1} in classInd.txt")
    stem = stem_of(video)
    group = _GROUP.search(stem)
    return Entry(
        name=f"{class_name}/{video}",
        key=(class_name.lower(), stem.lower()),
        label=label,
        group=f"{class_names[label]}_g{group[1]}" if group else "",
        place=place,
    )


def _find_videos(root: Path, split: Split, class_names: Iterable[str]) -> dict[Key, Path]:
    # Folders of other splits count too: fold 2 draws on videos laid out for fold 1.
    places = dict.fromkeys([split, *SPLITS, "videos", "UCF-101", "."])
    classes = {name.lower() for name in class_names}
    files: dict[Key, Path] = {}
    frames: dict[Key, Path] = {}
    for base in (root / place for place in places):
        for folder in subfolders(base):
            if folder.lower() in classes:
                for name in videos_in(base / folder):
                    stem = stem_of(name)
                    kind = frames if stem == name else files
                    kind.setdefault((folder.lower(), stem.lower()), base / folder / name)
    return frames | files
