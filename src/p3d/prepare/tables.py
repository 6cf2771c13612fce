"""Other people's tables of videos, each read into the same rows: class, split, file.

An adapter knows one kind of table and nothing of manifests; `manifest` turns rows into one.
"""

from __future__ import annotations

import csv
import re
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path, PurePosixPath
from typing import NamedTuple

from p3d.data.dataset import SPLITS, Split
from p3d.data.listing import read_lines, read_text, stem_of
from p3d.data.ucf101 import parse_classes, parse_list
from p3d.errors import UserError

HMDB51_GROUP = re.compile(r"^(.+)_[a-z]+_[a-z]+_np\d+_[a-z]+_[a-z]+_\d+\.\w+$")
"""A clip's source, before what is seen of it: NAME_CLASS_BODY_CAMERA_PEOPLE_VIEW_QUALITY_NUMBER."""

_SPLIT_WORDS: dict[str, Split] = {
    "train": "train",
    "training": "train",
    "val": "validation",
    "validate": "validation",
    "validation": "validation",
    "test": "test",
    "testing": "test",
}


class Row(NamedTuple):
    """One video of a table.

    Attributes:
        names: Where it may lie below the folder of videos, likeliest first, without a suffix if
            the table gives none.
        class_name: Its class.
        split: Its split.
        group: What it shares with others; "" where unknown.
        place: Table and line, for errors.
    """

    names: tuple[str, ...]
    class_name: str
    split: Split
    group: str
    place: str


def hmdb51(folder: Path, fold: int) -> Iterator[Row]:
    """The lists `<class>_test_split<fold>.txt`: a clip and 1 (train), 2 (test) or 0 (unused).

    Raises:
        UserError: There are no such lists, or a line is not of that form.
    """
    ending = f"_test_split{fold}.txt"
    lists = sorted(folder.rglob(f"*{ending}"))
    if not lists:
        raise UserError(f"{folder}: holds no CLASS{ending}; unpack test_train_splits.rar there")
    splits: dict[str, Split | None] = {"0": None, "1": "train", "2": "test"}
    for path in lists:
        class_name = path.name.removesuffix(ending)
        for number, line in read_lines(path):
            clip, _, use = line.rpartition(" ")
            place = f"{path}:{number}"
            if use not in splits or not clip.strip():
                raise UserError(f"{place}: {line!r} should be a clip and 0, 1 or 2")
            split = splits[use]
            if split is not None:
                clip = clip.strip()
                found = HMDB51_GROUP.match(clip)
                group = found[1].removesuffix(f"_{class_name}") if found else ""
                yield Row((f"{class_name}/{clip}",), class_name, split, group, place)


def kinetics(table: Path, default: Split | None) -> Iterator[Row]:
    """A table of the Kinetics kind: label, youtube_id, time_start, time_end, split.

    Clips are `<id>_<start>_<end>.mp4`, the times of six digits, or `<id>.mp4`; in a folder of the
    class (with spaces or underscores), of the split, or of neither. Clips of one film are a group.

    Raises:
        UserError: It is no such table, or a row lacks a label.
    """
    for place, row in _csv_rows(table, ("label", "youtube_id", "time_start", "time_end")):
        label, film = row["label"], row["youtube_id"]
        split = _split(row.get("split") or "", default, place)
        if not label or not film:
            raise UserError(f"{place}: has no label or no youtube_id")
        try:
            start, end = (int(float(row[name])) for name in ("time_start", "time_end"))
        except ValueError as error:
            raise UserError(f"{place}: times must be seconds ({error})") from error
        word = row.get("split") or split
        folders = (label, label.replace(" ", "_"), f"{word}/{label}", word, ".")
        stems = (f"{film}_{start:06d}_{end:06d}", film)
        names = (PurePosixPath(folder, stem).as_posix() for stem in stems for folder in folders)
        yield Row(tuple(dict.fromkeys(names)), label, split, film, place)


def ucf101_classes(folder: Path) -> tuple[str, ...]:
    """The class names of a folder of lists like UCF101's, in the order of their labels.

    Raises:
        UserError: There is no `classInd.txt`, or it is malformed.
    """
    path = folder / "classInd.txt"
    return parse_classes(read_text(path), str(path))


def ucf101(folder: Path, fold: int, class_names: tuple[str, ...]) -> Iterator[Row]:
    """The lists `trainlist<fold>.txt` and so on: a line `Class/video` for each, maybe a label.

    So MERL and Breakfast come with P3D's ports too. Labels count from 1 and follow from the class.
    Videos, or folders of their frames, lie in a folder of their split, in `videos/` or in neither.

    Raises:
        UserError: There is no training list, or a line is not of that form.
    """
    for split in SPLITS:
        path = folder / f"{split}list{fold:02d}.txt"
        if split != "train" and not path.is_file():
            continue
        for entry in parse_list(read_text(path), str(path), class_names):
            places = dict.fromkeys((split, *SPLITS, "videos", "."))
            stems = dict.fromkeys((entry.name, stem_of(entry.name)))
            names = tuple(
                PurePosixPath(place, stem).as_posix() for stem in stems for place in places
            )
            yield Row(names, class_names[entry.label], split, entry.group, entry.location)


def lists(paths: Sequence[tuple[Split, Path]], class_names: Sequence[str]) -> Iterator[Row]:
    """Text files with a line `path label` or `path frames label` for each video.

    The label is a number from 0, or a name; numbers stand for `class_names`, or for themselves.

    Raises:
        UserError: A line is not of that form, or a label stands for no class.
    """
    for split, path in paths:
        for number, line in read_lines(path):
            place = f"{path}:{number}"
            parts = re.split(r"[,\t]|\s+", line)
            name, label = " ".join(parts[:-1]), parts[-1]
            if len(parts) > 2 and parts[-2].isdigit():
                name = " ".join(parts[:-2])
            if not name:
                raise UserError(
                    f"{place}: {line!r} should be `path label` or `path frames label`; lists of "
                    "`Class/video` are read by --kind ucf101"
                )
            yield Row((name,), _class_of(label, class_names, place), split, "", place)


def table(path: Path, columns: Sequence[str], default: Split | None) -> Iterator[Row]:
    """Any CSV with a header; `columns` are its names for path, class, split and group.

    Raises:
        UserError: A column is not there, or a cell is empty.
    """
    path_column, class_column, split_column, group_column = columns
    for place, row in _csv_rows(path, (path_column, class_column)):
        name, label = row[path_column], row[class_column]
        if not name or not label:
            raise UserError(f"{place}: a video needs a path and a class")
        split = _split(row.get(split_column) or "", default, place)
        yield Row((name,), label, split, row.get(group_column) or "", place)


def _split(word: str, default: Split | None, place: str) -> Split:
    split = _SPLIT_WORDS.get(word.lower()) if word else default
    if split is None:
        raise UserError(
            f"{place}: split {word!r} must be train, validate or test; name the file's one split "
            "by --split where it has no column for it"
        )
    return split


def _class_of(label: str, class_names: Sequence[str], place: str) -> str:
    if not label.isdigit():
        return label
    if class_names and int(label) >= len(class_names):
        raise UserError(f"{place}: label {label}, but there are {len(class_names)} class names")
    return class_names[int(label)] if class_names else label


def _csv_rows(path: Path, needed: Iterable[str]) -> Iterator[tuple[str, dict[str, str]]]:
    try:
        with path.open(encoding="utf-8-sig", newline="") as file:
            reader = csv.DictReader(file, restval="", skipinitialspace=True)
            header = reader.fieldnames or ()
            absent = [name for name in needed if name not in header]
            if absent:
                raise UserError(
                    f"{path}: has no column {absent[0]!r}, only {', '.join(header) or 'nothing'}"
                )
            for row in reader:
                cells = {str(k): v.strip() for k, v in row.items() if isinstance(v, str)}
                yield f"{path}:{reader.line_num}", cells
    except (OSError, UnicodeDecodeError, csv.Error) as error:
        raise UserError(f"{path}: cannot be read as CSV in UTF-8 ({error})") from error
