"""CSV manifests.

A manifest has a header and a row for each video. The columns `path` (relative to the manifest),
`class` and `split` (train, validation or test) are required; `label` (from 0), `group`,
`num_frames` and `fps` are optional; other columns are ignored. Labels determine the order of the
classes; without them, names are sorted. A row with a class but no path and no split declares a
class without videos.

Manifests are UTF-8. Other bytes in the names of files are kept as they are (PEP 383), so that a
path reads back equal. Cells are data for programs: unlike in reports, none is changed for
spreadsheets.
"""

from __future__ import annotations

import csv
import os
from collections.abc import Collection, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import NamedTuple

from p3d.data.dataset import SPLITS, UNLABELED, Listed, Listing, Split, VideoRecord
from p3d.data.listing import NameFinder, absent, find_clash
from p3d.errors import UserError
from p3d.system.files import replacing

_COLUMNS = ("path", "class", "label", "split", "group", "num_frames", "fps")

_REQUIRED = ("path", "class", "split")


class _Row(NamedTuple):
    location: str
    class_name: str
    label: int | None
    split: Split | None
    record: VideoRecord | None


def list_manifest(path: Path, splits: Sequence[Split]) -> Listing:
    """Read a manifest and look for the videos of some splits.

    Raises:
        UserError: The manifest cannot be read, or a row is malformed or contradicts another.
    """
    if path.suffix.lower() != ".csv":
        raise UserError(f"{path}: is neither a folder nor a .csv manifest")
    rows = _read_rows(path)
    class_names = _order_classes(path, rows)
    labels = {name: label for label, name in enumerate(class_names)}
    seen: dict[str, str] = {}
    listed: dict[Split, list[VideoRecord]] = {split: [] for split in splits}
    for location, class_name, _, split, record in rows:
        if record is None:
            continue
        key = os.path.normpath(record.path)
        if key in seen:
            raise UserError(
                f"{location}: {record.path} is already listed in {seen[key]}; list it once"
            )
        seen[key] = location
        if split and split in listed:
            listed[split].append(replace(record, label=labels[class_name]))
    return Listing(path, class_names, _find_videos(path.parent, listed, seen.keys()))


def _find_videos(
    folder: Path, listed: Mapping[Split, Sequence[VideoRecord]], taken: Collection[str]
) -> dict[Split, Listed]:
    """Return the records of the videos that exist and the names of the others.

    Args:
        folder: The manifest's folder.
        listed: The videos of each split.
        taken: Normalized paths of all videos, which no other row can mean.
    """
    gone = absent(record.path for records in listed.values() for record in records)
    finder = NameFinder(folder)
    respelled: dict[Path, Path] = {}
    for path in sorted(gone):
        if not path.is_relative_to(folder):
            continue
        found = finder.find(path.relative_to(folder).as_posix())
        if found and os.path.normpath(found) not in taken and found not in respelled.values():
            respelled[path] = found
    gone -= respelled.keys()
    return {
        split: Listed(
            tuple(
                replace(record, path=respelled.get(record.path, record.path))
                for record in records
                if record.path not in gone
            ),
            tuple(str(record.path) for record in records if record.path in gone),
        )
        for split, records in listed.items()
    }


def _read_rows(path: Path) -> list[_Row]:
    try:
        with path.open(encoding="utf-8-sig", errors="surrogateescape", newline="") as file:
            reader = csv.reader(file, strict=True)
            header = [name.strip().lower() for name in next(reader, [])]
            for name in _REQUIRED:
                if name not in header:
                    raise UserError(
                        f"{path}: the header has no column {name}; it needs {', '.join(_REQUIRED)}"
                    )
            return [
                _parse(path, f"{path}:{reader.line_num}", header, cells)
                for cells in reader
                if any(cells)
            ]
    except (OSError, csv.Error) as error:
        raise UserError(f"{path}: cannot be read as CSV in UTF-8 ({error})") from error


def _parse(path: Path, location: str, header: Sequence[str], cells: Sequence[str]) -> _Row:
    if len(cells) != len(header):
        raise UserError(f"{location}: has {len(cells)} cells, but the header has {len(header)}")
    row = dict.fromkeys(_COLUMNS, "") | dict(zip(header, map(str.strip, cells), strict=True))
    if "\0" in "".join(cells):
        raise UserError(f"{location}: has a NUL character; save the manifest as UTF-8")
    declares_class = not row["path"] and not row["split"]
    if not row["class"] or not (row["path"] or declares_class):
        raise UserError(f"{location}: a video needs a path and a class")
    split = next((split for split in SPLITS if split == row["split"]), None)
    if split is None and not declares_class:
        raise UserError(f"{location}: split {row['split']!r} must be one of {', '.join(SPLITS)}")
    if "label" in header and not row["label"]:
        raise UserError(f"{location}: has no label; give every row one, or drop the column")
    try:
        label = int(row["label"]) if row["label"] else None
        num_frames = int(row["num_frames"]) if row["num_frames"] else None
        fps = float(row["fps"]) if row["fps"] else None
    except ValueError as error:
        raise UserError(
            f"{location}: label, num_frames and fps must be numbers ({error})"
        ) from error
    record = None
    if row["path"]:
        video = path.parent / row["path"]
        record = VideoRecord(video, UNLABELED, row["group"], num_frames, fps)
    return _Row(location, row["class"], label, split, record)


def _order_classes(path: Path, rows: Sequence[_Row]) -> tuple[str, ...]:
    names = sorted({row.class_name for row in rows})
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


def write_manifest(
    path: Path, class_names: Sequence[str], splits: Mapping[Split, Sequence[VideoRecord]]
) -> None:
    """Write a manifest from which `read_splits` returns the same data set.

    Videos below the manifest's folder are listed relative to it, so that the folder can be moved;
    others are listed by absolute path. The file is replaced atomically.

    Args:
        path: The CSV file; its folder is created if needed.
        class_names: All classes, in the order of their labels.
        splits: The videos of each split.

    Raises:
        UserError: A video has no class, or a class or group has spaces at its ends, which readers
            remove.
        OSError: The file cannot be written.
    """
    _check_writable(class_names, splits)
    folder = _absolute(path.parent)
    shown = {record.label for records in splits.values() for record in records}
    rows: list[Sequence[object]] = [_COLUMNS]
    rows += (
        ("", name, label, "", "", "", "")
        for label, name in enumerate(class_names)
        if label not in shown
    )
    for split, records in splits.items():
        for r in records:
            name = _name_from(folder, r.path)
            rows.append((name, class_names[r.label], r.label, split, r.group, r.num_frames, r.fps))
    path.parent.mkdir(parents=True, exist_ok=True)
    with (
        replacing(path) as temporary,
        temporary.open("w", encoding="utf-8", errors="surrogateescape", newline="") as file,
    ):
        plain = csv.writer(file, lineterminator="\n")
        quoting = csv.writer(file, lineterminator="\n", quoting=csv.QUOTE_ALL)
        for row in rows:
            # Before Python 3.13, csv does not quote a carriage return by itself.
            quoted = any(isinstance(cell, str) and "\r" in cell for cell in row)
            (quoting if quoted else plain).writerow(row)


def _check_writable(
    class_names: Sequence[str], splits: Mapping[Split, Sequence[VideoRecord]]
) -> None:
    for records in splits.values():
        for record in records:
            if record.label not in range(len(class_names)):
                raise UserError(f"{record.path}: has no class; a manifest needs one for each video")
    groups = {record.group for records in splits.values() for record in records}
    for name in (*class_names, *sorted(groups)):
        if name != name.strip():
            raise UserError(
                f"{name!r}: a class or group in a manifest cannot begin or end with a space; "
                "rename it"
            )


def _name_from(folder: Path, path: Path) -> str:
    """Return the path of a video as a manifest in a folder names it."""
    video = _absolute(path)
    if video.is_relative_to(folder):
        video = video.relative_to(folder)
    name = video.as_posix()
    # Readers strip cells, but not spaces that are enclosed by slashes.
    return name if name == name.strip() else os.path.join(".", name, "")  # noqa: PTH118


def _absolute(path: Path) -> Path:
    # Unlike `resolve`, does not follow links: linked videos stay below the manifest.
    return Path(os.path.abspath(path))  # noqa: PTH100
