"""Lists and tables of videos in several formats, read into rows of class, split and file.

All functions raise a `UserError` with the line at fault if a table is missing or malformed.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping, Sequence
from pathlib import Path, PurePosixPath
from typing import NamedTuple

from p3d.data.columns import read_cells
from p3d.data.dataset import SPLIT_NAMES, SPLITS, WHOLE, Part, Segment, Split
from p3d.data.listing import read_lines, read_text, spelling_key, split_label, stem_of
from p3d.data.ucf101 import parse_classes, parse_list
from p3d.errors import UserError

MOST_CLASSES = 100_000
"""Largest label in a list: each number up to it becomes a class."""

HMDB51_GROUP = re.compile(r"^(.+)_[a-z]+_[a-z]+_np\d+_[a-z]+_[a-z]+_\d+\.\w+$")
"""Matches FILM_CLASS_BODY_CAMERA_PEOPLE_VIEW_QUALITY_NUMBER.avi and captures FILM_CLASS."""


class Row(NamedTuple):
    """One video of a table.

    Attributes:
        names: Possible paths below the folder of videos, the most likely first; without a suffix
            if the table has none.
        class_name: Its class.
        split: Its split; None if nothing divides the videos.
        group: What it shares with other videos, "" if unknown.
        line: Table and line number, for errors.
        segment: The part of the video that it is, in seconds.
    """

    names: tuple[str, ...]
    class_name: str
    split: Part
    group: str
    line: str
    segment: Segment = WHOLE


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
            clip, use = split_label(text)
            line = f"{path}:{number}"
            if use not in splits or not clip:
                raise UserError(f"{line}: {text!r} should be a clip and 0, 1 or 2")
            split = splits[use]
            if split is not None:
                found = HMDB51_GROUP.match(clip)
                group = found[1].removesuffix(f"_{class_name}") if found else ""
                yield Row((f"{class_name}/{clip}",), class_name, split, group, line)


def kinetics(table: Path, default: Split | None) -> Iterator[Row]:
    """Read a table like those of Kinetics: label, youtube_id, time_start, time_end, split.

    Clips are called `<id>_<start>_<end>.mp4`, with times of six digits, or `<id>.mp4`. They are in
    a folder of the class (with spaces or underscores), of the split (by any of its names), or in
    the main folder. Clips of one film form a group.
    """
    for line, row in _csv_rows(table, ("label", "youtube_id", "time_start", "time_end")):
        label, film = row["label"], row["youtube_id"]
        split = _parse_split(row.get("split") or "", default, line)
        if not label or not film:
            raise UserError(f"{line}: has no label or no youtube_id")
        try:
            start, end = (int(float(row[name])) for name in ("time_start", "time_end"))
        except (ValueError, OverflowError) as error:
            raise UserError(f"{line}: times must be seconds ({error})") from error
        classes = (label, label.replace(" ", "_"))
        words = (
            row.get("split") or split,
            *(word for word, s in SPLIT_NAMES.items() if s == split),
        )
        divided = (folder for w in words for folder in (*(f"{w}/{name}" for name in classes), w))
        folders = dict.fromkeys((*classes, *divided, "."))
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


def lists(
    paths: Sequence[tuple[Split, Path]],
    class_names: Sequence[str],
    exists: Callable[[str], bool],
    first_label: int | None = None,
) -> Iterator[Row]:
    """Read text files with lines `path label` or `path frames label`.

    Tabs, commas or spaces divide a line. Since paths may hold spaces and commas too, the reading
    whose video exists is taken.

    A label is a name or a number. Numbers are indices into `class_names`, counted from
    `first_label`; without class names they are names themselves.

    Args:
        paths: The lists with their splits.
        class_names: Names in the order of the labels, or none.
        exists: Whether there is a video of that path.
        first_label: The first class's number, 0 or 1. None: as the labels show.
    """
    known = {spelling_key(name) for name in class_names}
    rows = [
        (split, f"{path}:{number}", *_read_line(f"{path}:{number}", text, known, exists))
        for split, path in paths
        for number, text in read_lines(path)
    ]
    numbers = {int(label): line for _, line, _, label in rows if is_number(label)}
    first = _first_label(numbers, len(class_names), first_label) if class_names else 0
    for split, line, name, label in rows:
        if class_names and is_number(label):
            index = int(label) - first
            if index not in range(len(class_names)):
                raise UserError(
                    f"{line}: label {label}, but there are {len(class_names)} class names; labels "
                    f"are counted from {first}"
                )
            label = class_names[index]
        yield Row((name,), label, split, "", line)


def _first_label(numbers: Mapping[int, str], classes: int, given: int | None) -> int:
    """Return whether the labels of a list are counted from 0 or 1; refuse what could be both."""
    if given is not None:
        return given
    if not numbers or 0 in numbers:
        return 0
    most = max(numbers)
    if most < classes:
        raise UserError(
            f"{numbers[most]}: the labels are {min(numbers)} to {most} for {classes} class names, "
            "which may be counted from 0 or from 1; give --first-label 0 or 1"
        )
    return 1


def _read_line(
    line: str, text: str, known: Collection[str], exists: Callable[[str], bool]
) -> tuple[str, str]:
    """Return the path and the label of a list's line; `known` has keys of the class names."""
    readings = list(dict.fromkeys(_readings(text)))
    if known:
        valid = [r for r in readings if is_number(r[1]) or spelling_key(r[1]) in known]
        readings = valid or readings
    if not readings:
        raise UserError(
            f"{line}: {text!r} should be `path label` or `path frames label`; lists of "
            "`Class/video` are read by --kind ucf101"
        )
    found = [reading for reading in readings if exists(reading[0])]
    if len(found) > 1:
        raise UserError(
            f"{line}: {text!r} may be {found[0][0]!r} with label {found[0][1]} or {found[1][0]!r} "
            f"with label {found[1][1]}, and both videos exist; put a tab before the label"
        )
    cells = re.split(r"[\s,]+", text)
    if not found and len(cells) > 2 and is_number(cells[-2]) and not int(cells[-2]):
        raise UserError(
            f"{line}: {text!r} has 0 frames; lines are `path label` or `path frames label`"
        )
    name, label = (found or readings)[0]
    if label.startswith("-") and is_number(label[1:]):
        raise UserError(f"{line}: label {label} is no class; remove the line or give its class")
    large = not is_number(label) or int(label) > MOST_CLASSES
    if label.isascii() and label.isdecimal() and large:
        raise UserError(f"{line}: label {label} is above {MOST_CLASSES:,}; fix the label")
    return name, label


def _readings(text: str) -> Iterator[tuple[str, str]]:
    """Yield the ways to read a line as a path and a label, the most likely first."""
    if "\t" in text:
        cells = [cell.strip() for cell in text.split("\t")]
        if len(cells) == 2 or (len(cells) == 3 and _is_frames(cells[1])):
            yield cells[0], cells[-1]
        return
    by_space = text.rpartition(" ")
    by_comma = text.rpartition(",")
    splits = [(head.rstrip(" ,"), label.strip()) for head, _, label in (by_comma, by_space)]
    splits = [(head, label) for head, label in splits if head and label]
    shorter = [(*_split_frames(head), label) for head, label in splits]
    readings = [(head, label) for head, frames, label in shorter if frames]
    readings += splits
    # A path with the suffix of a video is hardly a part of one.
    yield from sorted(readings, key=lambda reading: stem_of(reading[0]) == reading[0])


def _split_frames(text: str) -> tuple[str, str]:
    """Return a path and the number of frames after it, "" if there is none."""
    head, frames = split_label(text)
    return (head, frames) if head and _is_frames(frames) else (text, "")


def is_number(text: str) -> bool:
    """Return whether a text is a number of up to nine digits."""
    return text.isascii() and text.isdecimal() and len(text) < 10


def _is_frames(text: str) -> bool:
    return is_number(text) and int(text) > 0


def table(path: Path, columns: Sequence[str], default: Split | None) -> Iterator[Row]:
    """Read any CSV with a header; `columns` names those of path, class, split and group.

    Columns `start` and `end` are the seconds of a segment.
    """
    path_column, class_column, split_column, group_column = columns
    for line, row in _csv_rows(path, (path_column, class_column)):
        name, label = row[path_column], row[class_column]
        if not name or label in ("", "-1"):
            raise UserError(f"{line}: a video needs a path and a class, not {label!r}")
        split = _parse_split(row.get(split_column) or "", default, line)
        segment = _parse_times(row, line)
        yield Row((name,), label, split, row.get(group_column) or "", line, segment)


def _parse_times(row: Mapping[str, str], line: str) -> Segment:
    texts = (row.get("start"), row.get("end"))
    try:
        return Segment(*(float(text) if text else None for text in texts))
    except ValueError as error:
        raise UserError(f"{line}: start and end must be seconds ({error})") from error


def _parse_split(name: str, default: Split | None, line: str) -> Split:
    split = SPLIT_NAMES.get(name.lower()) if name else default
    if split is None:
        raise UserError(
            f"{line}: split {name!r} must be train, validation or test; use --split if the file "
            "has no column for it"
        )
    return split


def _csv_rows(path: Path, needed: Iterable[str]) -> Iterator[tuple[str, dict[str, str]]]:
    rows = read_cells(path)
    header = next(rows, ("", []))[1]
    if absent := [name for name in needed if name not in header]:
        raise UserError(
            f"{path}: has no column {absent[0]!r}, only {', '.join(header) or 'nothing'}"
        )
    for line, row in rows:
        cells = dict.fromkeys(header, "") | dict(zip(header, map(str.strip, row), strict=False))
        if "\0" in "".join(cells.values()):
            raise UserError(f"{line}: has a NUL character; save as UTF-8")
        yield line, cells
