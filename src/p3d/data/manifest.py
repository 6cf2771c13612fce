"""Read CSV manifests.

A manifest has a header and a row for each video. The columns `path` (relative to the manifest) and
`class` are required; `split` (train, validation or test), `label` (from 0), `group`, `num_frames`,
`fps`, `start` and `end` are optional; other columns are ignored. Without splits, a rule divides the
videos. Labels determine the order of the classes; without them, names are sorted. A row with a
class but no path and no split declares a class without videos.

`start` and `end` are seconds from the first frame: such a row is a segment of its file, which may
have many. The segments of a file are in one split and one group, which is the file if none is
given.

Manifests are UTF-8. Other bytes in the names of files are kept as they are (PEP 383), so that a
path reads back equal. Cells are data for programs: unlike in reports, none is changed for
spreadsheets.
"""

from __future__ import annotations

import math
import os
from collections.abc import Collection, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import NamedTuple

from p3d.data.columns import TIMES, Columns, find_columns, read_cells
from p3d.data.dataset import (
    SPLIT_NAMES,
    SPLITS,
    UNLABELED,
    WHOLE,
    Listing,
    Part,
    Segment,
    VideoRecord,
)
from p3d.data.listing import NameFinder, absent, find_clash
from p3d.errors import UserError
from p3d.system.text import counted

SUFFIXES = (".csv", ".tsv")
"""Suffixes of manifests, in lower case."""


class _Row(NamedTuple):
    location: str
    class_name: str
    label: int | None
    split: Part
    record: VideoRecord | None


def read_manifest(path: Path) -> Listing:
    """Read a manifest. It is not looked whether the videos exist, see `find_videos`.

    Raises:
        UserError: The manifest cannot be read, or a row is malformed or contradicts another.
    """
    if path.suffix.lower() not in SUFFIXES:
        raise UserError(
            f"{path}: is neither a folder nor a .csv manifest; give the folder that holds the "
            "videos of all classes, or a manifest"
        )
    columns, rows = _read_rows(path)
    class_names = _order_classes(path, rows, by_number=columns.header_of["class"] != "class")
    labels = {name: label for label, name in enumerate(class_names)}
    files = _Files()
    parts: dict[Part, list[VideoRecord]] = {split: [] for split in SPLITS}
    if not any(row.split for row in rows):
        parts = {None: []}
    for row in rows:
        location, class_name, _, split, record = row
        if record is None:
            continue
        files.add(row, record)
        if split not in parts:
            raise UserError(f"{location}: has no split; give every row one, or none")
        parts[split].append(replace(record, label=labels[class_name]))
    return Listing(
        path,
        class_names,
        {part: tuple(records) for part, records in parts.items()},
        notes=(*columns.notes, *files.notes(path)),
    )


class _Files:
    """The files of a manifest, each with its first row and its segments."""

    def __init__(self) -> None:
        self._first: dict[str, _Row] = {}
        self._seen: dict[tuple[str, Segment], str] = {}

    def add(self, row: _Row, record: VideoRecord) -> None:
        """Add a row.

        Raises:
            UserError: It is there already, or segments of its file are in another split or group,
                or the file is also listed as a whole.
        """
        location, file = row.location, os.path.normpath(record.path)
        where = self._seen.setdefault((file, record.segment), location)
        if where is not location:
            raise UserError(f"{location}: {record.name} is already listed in {where}; list it once")
        first = self._first.setdefault(file, row)
        if first is row or first.record is None:
            return
        if WHOLE in (record.segment, first.record.segment):
            raise UserError(
                f"{location}: {record.path} is listed as a whole and in segments, see "
                f"{first.location}; give all of its rows a start or end"
            )
        for what, ours, theirs in (
            ("split", row.split, first.split),
            ("group", record.group, first.record.group),
        ):
            if ours != theirs:
                raise UserError(
                    f"{location}: {record.path} has {what} {ours or 'none'} here and "
                    f"{theirs or 'none'} in {first.location}; give all segments of a file one"
                )

    def notes(self, path: Path) -> tuple[str, ...]:
        """Return a line for the user about segments, if there are any."""
        segments = sum(segment != WHOLE for _, segment in self._seen)
        if not segments:
            return ()
        files = {file for file, segment in self._seen if segment != WHOLE}
        return (
            f"SEGMENTS of {path.name}: {segments:,} of {counted(len(files), 'file')}, by the "
            "columns start and end (seconds)",
        )


def find_videos(listing: Listing, parts: Collection[Part]) -> Listing:
    """Look for the videos of some parts of a manifest, and leave out the other parts."""
    wanted = {part: records or () for part, records in listing.parts.items() if part in parts}
    gone = absent(record.path for records in wanted.values() for record in records)
    # No further row can mean these.
    taken = {os.path.normpath(record.path) for record in listing.records} if gone else set()
    finder = NameFinder(listing.folder)
    respelled: dict[Path, Path] = {}
    for path in sorted(gone):
        if not path.is_relative_to(listing.folder):
            continue
        found = finder.find(path.relative_to(listing.folder).as_posix())
        if found and os.path.normpath(found) not in taken:
            taken.add(os.path.normpath(found))
            respelled[path] = found
    found_parts = {
        part: tuple(
            replace(record, path=respelled.get(record.path, record.path)) for record in records
        )
        for part, records in wanted.items()
    }
    missing = {path: str(path) for path in gone - respelled.keys()}
    return replace(listing, parts=found_parts, missing=missing)


def _read_rows(path: Path) -> tuple[Columns, list[_Row]]:
    rows = read_cells(path)
    columns = find_columns(path, next(rows, ("", []))[1])
    return columns, [_parse(path, location, columns, cells) for location, cells in rows]


def _parse(path: Path, location: str, columns: Columns, cells: Sequence[str]) -> _Row:
    row = columns.read(location, cells)
    declares_class = not row["path"] and not row["split"]
    if not row["class"] or not (row["path"] or declares_class):
        raise UserError(f"{location}: a video needs a path and a class")
    split = SPLIT_NAMES.get(row["split"].lower())
    if split is None and row["split"]:
        raise UserError(f"{location}: split {row['split']!r} must be one of {', '.join(SPLITS)}")
    if "label" in columns.header_of and not row["label"]:
        raise UserError(f"{location}: has no label; give every row one, or drop the column")
    try:
        label = int(row["label"]) if row["label"] else None
        num_frames = int(row["num_frames"]) if row["num_frames"] else None
        fps = float(row["fps"]) if row["fps"] else None
    except ValueError as error:
        raise UserError(
            f"{location}: label, num_frames and fps must be numbers ({error})"
        ) from error
    if fps is not None and not 0 < fps < math.inf:
        raise UserError(f"{location}: fps is {fps}; give frames per second, above 0, or leave it")
    record = None
    if row["path"]:
        video = path.parent / row["path"]
        segment = _read_segment(location, row)
        group = row["group"] or ("" if segment == WHOLE else row["path"])
        record = VideoRecord(video, UNLABELED, group, num_frames, fps, *segment)
    return _Row(location, row["class"], label, split, record)


def _read_segment(location: str, row: Mapping[str, str]) -> Segment:
    """Return the segment of a row, in seconds."""
    try:
        start, end = (float(row[name]) if row[name] else None for name in TIMES)
    except ValueError as error:
        raise UserError(f"{location}: start and end must be seconds ({error})") from error
    if not 0 <= (start or 0.0) < (math.inf if end is None else end) or end == math.inf:
        raise UserError(
            f"{location}: start {row['start'] or 'none'} and end {row['end'] or 'none'} are no "
            "segment; give seconds from 0, the end after the start"
        )
    return Segment(start, end)


def _order_classes(path: Path, rows: Sequence[_Row], *, by_number: bool) -> tuple[str, ...]:
    names = sorted({row.class_name for row in rows})
    if by_number and all(name.isascii() and name.isdecimal() for name in names):
        names.sort(key=int)
    if not names:
        raise UserError(f"{path}: lists no videos; add a row for each")
    if rows[0].label is None:
        if clash := find_clash(names):
            raise UserError(
                f"{path}: the classes {clash[0]!a} and {clash[1]!a} differ only in case "
                "or Unicode form; spell them alike, or add the column label"
            )
        return tuple(names)
    labels: dict[str, int] = {}
    classes: dict[int, str] = {}
    for row in rows:
        label = -1 if row.label is None else row.label
        if labels.setdefault(row.class_name, label) != label:
            raise UserError(
                f"{row.location}: class {row.class_name} has label {label} here and "
                f"{labels[row.class_name]} above; give a class one label"
            )
        if classes.setdefault(label, row.class_name) != row.class_name:
            raise UserError(
                f"{row.location}: label {label} is {row.class_name} here and "
                f"{classes[label]} above; give a label one class"
            )
    if set(classes) != set(range(len(names))):
        raise UserError(
            f"{path}: labels of {len(names)} classes must be 0 to {len(names) - 1} without gaps, "
            f"not {sorted(classes)[0]} to {sorted(classes)[-1]}; for a class without videos, add "
            "a row with only its name and label"
        )
    return tuple(classes[label] for label in range(len(names)))
