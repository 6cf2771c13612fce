"""Lists and tables of videos in several formats, read into rows of class, split and file.

All functions raise a `UserError` with the line at fault if a table is missing or malformed.
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
"""Matches FILM_CLASS_BODY_CAMERA_PEOPLE_VIEW_QUALITY_NUMBER.avi and captures FILM_CLASS."""

_SPLITS: dict[str, Split] = {
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
        names: Possible paths below the folder of videos, the most likely first; without a suffix
            if the table has none.
        class_name: Its class.
        split: Its split.
        group: What it shares with other videos, "" if unknown.
        line: Table and line number, for errors.
    """

    names: tuple[str, ...]
    class_name: str
    split: Split
    group: str
    line: str


def hmdb51(folder: Path, fold: int) -> Iterator[Row]:
    """Read the lists `<class>_test_split<fold>.txt`: a clip, and 1 (train), 2 (test) or 0."""
    ending = f"_test_split{fold}.txt"
    lists = sorted(folder.rglob(f"*{ending}"))
    if not lists:
        raise UserError(f"{folder}: holds no CLASS{ending}; unpack test_train_splits.rar there")
    splits: dict[str, Split | None] = {"0": None, "1": "train", "2": "test"}
    for path in lists:
        class_name = path.name.removesuffix(ending)
        for number, text in read_lines(path):
            clip, _, use = text.rpartition(" ")
            line = f"{path}:{number}"
            if use not in splits or not clip.strip():
                raise UserError(f"{line}: {text!r} should be a clip and 0, 1 or 2")
            split = splits[use]
            if split is not None:
                clip = clip.strip()
                found = HMDB51_GROUP.match(clip)
                group = found[1].removesuffix(f"_{class_name}") if found else ""
                yield Row((f"{class_name}/{clip}",), class_name, split, group, line)


def kinetics(table: Path, default: Split | None) -> Iterator[Row]:
    """Read a table like those of Kinetics: label, youtube_id, time_start, time_end, split.

    Clips are called `<id>_<start>_<end>.mp4`, with times of six digits, or `<id>.mp4`. They are in
    a folder of the class (with spaces or underscores), of the split, or in the main folder. Clips
    of one film form a group.
    """
    for line, row in _csv_rows(table, ("label", "youtube_id", "time_start", "time_end")):
        label, film = row["label"], row["youtube_id"]
        split = _parse_split(row.get("split") or "", default, line)
        if not label or not film:
            raise UserError(f"{line}: has no label or no youtube_id")
        try:
            start, end = (int(float(row[name])) for name in ("time_start", "time_end"))
        except ValueError as error:
            raise UserError(f"{line}: times must be seconds ({error})") from error
        split_folder = row.get("split") or split
        folders = (label, label.replace(" ", "_"), f"{split_folder}/{label}", split_folder, ".")
        stems = (f"{film}_{start:06d}_{end:06d}", film)
        names = (PurePosixPath(folder, stem).as_posix() for stem in stems for folder in folders)
        yield Row(tuple(dict.fromkeys(names)), label, split, film, line)


def ucf101_classes(folder: Path) -> tuple[str, ...]:
    """Return the class names of `classInd.txt` in the order of their labels."""
    path = folder / "classInd.txt"
    return parse_classes(read_text(path), str(path))


def ucf101(folder: Path, fold: int, class_names: tuple[str, ...]) -> Iterator[Row]:
    """Read the lists `trainlist<fold>.txt` and so on, with lines `Class/video` or with a label.

    P3D's ports have MERL and Breakfast in this form. Labels start at 1 and are redundant. Videos,
    or folders of their frames, are in a folder of their split, in `videos/`, or in the main folder.
    """
    for split in SPLITS:
        path = folder / f"{split}list{fold:02d}.txt"
        if split != "train" and not path.is_file():
            continue
        for entry in parse_list(read_text(path), str(path), class_names):
            folders = dict.fromkeys((split, *SPLITS, "videos", "."))
            stems = dict.fromkeys((entry.name, stem_of(entry.name)))
            names = tuple(
                PurePosixPath(folder, stem).as_posix() for stem in stems for folder in folders
            )
            yield Row(names, class_names[entry.label], split, entry.group, entry.location)


def lists(paths: Sequence[tuple[Split, Path]], class_names: Sequence[str]) -> Iterator[Row]:
    """Read text files with lines `path label` or `path frames label`.

    A label is a name or a number from 0. Numbers are indices into `class_names`; without class
    names they are names themselves.
    """
    for split, path in paths:
        for number, text in read_lines(path):
            line = f"{path}:{number}"
            parts = re.split(r"[,\t]|\s+", text)
            name, label = " ".join(parts[:-1]), parts[-1]
            if len(parts) > 2 and parts[-2].isdigit():
                name = " ".join(parts[:-2])
            if not name:
                raise UserError(
                    f"{line}: {text!r} should be `path label` or `path frames label`; lists of "
                    "`Class/video` are read by --kind ucf101"
                )
            yield Row((name,), _class_of(label, class_names, line), split, "", line)


def table(path: Path, columns: Sequence[str], default: Split | None) -> Iterator[Row]:
    """Read any CSV with a header; `columns` names those of path, class, split and group."""
    path_column, class_column, split_column, group_column = columns
    for line, row in _csv_rows(path, (path_column, class_column)):
        name, label = row[path_column], row[class_column]
        if not name or not label:
            raise UserError(f"{line}: a video needs a path and a class")
        split = _parse_split(row.get(split_column) or "", default, line)
        yield Row((name,), label, split, row.get(group_column) or "", line)


def _parse_split(name: str, default: Split | None, line: str) -> Split:
    split = _SPLITS.get(name.lower()) if name else default
    if split is None:
        raise UserError(
            f"{line}: split {name!r} must be train, validate or test; use --split if the file has "
            "no column for it"
        )
    return split


def _class_of(label: str, class_names: Sequence[str], line: str) -> str:
    if not label.isdigit():
        return label
    if class_names and int(label) >= len(class_names):
        raise UserError(f"{line}: label {label}, but there are {len(class_names)} class names")
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
