"""CSV manifests.

A manifest has a header and a row for each video. The columns `path` (relative to the manifest),
`class` and `split` (train, validation or test) are required; `label` (from 0), `group`,
`num_frames` and `fps` are optional; other columns are ignored. Labels determine the order of the
classes; without them, names are sorted. A row with a class but no path and no split declares a
class without videos.
"""

from __future__ import annotations

import csv
import os
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import NamedTuple

from p3d.data.dataset import SPLITS, UNLABELED, Listed, Listing, Split, VideoRecord
from p3d.data.listing import absent
from p3d.errors import UserError
from p3d.system.files import replacing

_COLUMNS = ("path", "class", "label", "split", "group", "num_frames", "fps")

_REQUIRED = ("path", "class", "split")


class _Row(NamedTuple):
    location: str
    class_name: str
    label: int | None
    split: str
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
    listed: dict[str, list[VideoRecord]] = {split: [] for split in splits}
    for location, class_name, _, split, record in rows:
        if record is None:
            continue
        key = os.path.normpath(record.path)
        if key in seen:
            raise UserError(
                f"{location}: {record.path} is already listed in {seen[key]}; list it once"
            )
        seen[key] = location
        if split in listed:
            listed[split].append(replace(record, label=labels[class_name]))
    gone = absent(record.path for records in listed.values() for record in records)
    found = {
        split: Listed(
            tuple(record for record in listed[split] if record.path not in gone),
            tuple(str(record.path) for record in listed[split] if record.path in gone),
        )
        for split in splits
    }
    return Listing(path, class_names, found)


def _read_rows(path: Path) -> list[_Row]:
    try:
        with path.open(encoding="utf-8-sig", newline="") as file:
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
    except (OSError, UnicodeDecodeError, csv.Error) as error:
        raise UserError(f"{path}: cannot be read as CSV in UTF-8 ({error})") from error


def _parse(path: Path, location: str, header: Sequence[str], cells: Sequence[str]) -> _Row:
    if len(cells) != len(header):
        raise UserError(f"{location}: has {len(cells)} cells, but the header has {len(header)}")
    row = dict.fromkeys(_COLUMNS, "") | dict(zip(header, map(str.strip, cells), strict=True))
    declares_class = not row["path"] and not row["split"]
    if not row["class"] or not (row["path"] or declares_class):
        raise UserError(f"{location}: a video needs a path and a class")
    if row["split"] not in SPLITS and not declares_class:
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
    return _Row(location, row["class"], label, row["split"], record)


def _order_classes(path: Path, rows: Sequence[_Row]) -> tuple[str, ...]:
    names = sorted({row.class_name for row in rows})
    if not names:
        raise UserError(f"{path}: lists no videos; add a row for each")
    if rows[0].label is None:
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
    """
    folder = _absolute(path.parent)
    shown = {record.label for records in splits.values() for record in records}
    path.parent.mkdir(parents=True, exist_ok=True)
    with replacing(path) as temporary, temporary.open("w", encoding="utf-8", newline="") as file:
        writer = csv.writer(file, lineterminator="\n")
        writer.writerow(_COLUMNS)
        for label, name in enumerate(class_names):
            if label not in shown:
                writer.writerow(["", name, label, "", "", "", ""])
        for split, records in splits.items():
            for r in records:
                video = _absolute(r.path)
                if video.is_relative_to(folder):
                    video = video.relative_to(folder)
                name = video.as_posix()
                if name != name.strip():
                    # Readers strip cells, but not spaces that are enclosed by slashes.
                    name = os.path.join(".", name, "")  # noqa: PTH118
                row = [name, class_names[r.label], r.label, split, r.group, r.num_frames, r.fps]
                writer.writerow(row)


def _absolute(path: Path) -> Path:
    # Unlike `resolve`, does not follow links: linked videos stay below the manifest.
    return Path(os.path.abspath(path))  # noqa: PTH100
