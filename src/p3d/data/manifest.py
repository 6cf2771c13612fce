"""From what a user has to a list of labelled videos: three layouts, one reader.

* The layout of UCF101, known by its folder `ucfTrainTestlist/`: see `p3d.data.ucf101`.
* A CSV manifest, or a folder with a `manifest.csv`.
* A folder per class: see `p3d.data.folders`.

A manifest has a header and a row for each video. `path` (relative to the manifest), `class` and
`split` (train, validation or test) are needed; `label` (from 0), `group`, `num_frames` and `fps`
may be there; other columns are the user's own. Labels put the classes in order; without them the
names are sorted. A row with a class, but without path and split, declares a class that no video
shows.
"""

from __future__ import annotations

import csv
import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import NamedTuple

from p3d.data.dataset import SPLITS, Split, VideoDataset, VideoRecord, check_missing
from p3d.data.listing import absent
from p3d.errors import UserError
from p3d.system.files import replacing

_COLUMNS = ("path", "class", "label", "split", "group", "num_frames", "fps")

_NEEDED = ("path", "class", "split")


class _Row(NamedTuple):
    place: str
    path: Path | None
    class_name: str
    label: int | None
    split: str
    group: str
    num_frames: int | None
    fps: float | None


def _read_manifest(path: Path, split: Split, allow_missing: bool) -> VideoDataset:
    if path.suffix.lower() != ".csv":
        raise UserError(f"{path}: is neither a folder nor a .csv manifest")
    rows = _read_rows(path)
    class_names = _order_classes(path, rows)
    labels = {name: label for label, name in enumerate(class_names)}
    seen: dict[str, str] = {}
    listed: list[VideoRecord] = []
    for row in rows:
        if row.path is None:
            continue
        key = os.path.normpath(row.path)
        if key in seen:
            raise UserError(f"{row.place}: {row.path} stands in {seen[key]} already; name it once")
        seen[key] = row.place
        if row.split == split:
            label = labels[row.class_name]
            listed.append(VideoRecord(row.path, label, row.group, row.num_frames, row.fps))
    gone = absent([record.path for record in listed])
    names = [str(record.path) for record in listed if record.path in gone]
    missing = check_missing(names, len(listed), path.parent, allow_missing)
    records = tuple(record for record in listed if record.path not in gone)
    return VideoDataset(class_names, records, missing)


def _read_rows(path: Path) -> list[_Row]:
    try:
        with path.open(encoding="utf-8-sig", newline="") as file:
            reader = csv.reader(file, strict=True)
            header = [name.strip().lower() for name in next(reader, [])]
            for name in _NEEDED:
                if name not in header:
                    raise UserError(
                        f"{path}: the header has no column {name}; it needs {', '.join(_NEEDED)}"
                    )
            return [
                _parse(path, f"{path}:{reader.line_num}", header, cells)
                for cells in reader
                if any(cells)
            ]
    except (OSError, UnicodeDecodeError, csv.Error) as error:
        raise UserError(f"{path}: cannot be read as CSV in UTF-8 ({error})") from error


def _parse(path: Path, place: str, header: Sequence[str], cells: Sequence[str]) -> _Row:
    if len(cells) != len(header):
        raise UserError(f"{place}: has {len(cells)} cells where the header has {len(header)}")
    row = dict.fromkeys(_COLUMNS, "") | dict(zip(header, map(str.strip, cells), strict=True))
    declaration = not row["path"] and not row["split"]
    if not row["class"] or not (row["path"] or declaration):
        raise UserError(f"{place}: a video needs a path and a class")
    if row["split"] not in SPLITS and not declaration:
        raise UserError(f"{place}: split {row['split']!r} must be one of {', '.join(SPLITS)}")
    if "label" in header and not row["label"]:
        raise UserError(f"{place}: has no label; give one to every row, or drop the column")
    try:
        return _Row(
            place=place,
            path=path.parent / row["path"] if row["path"] else None,
            class_name=row["class"],
            label=int(row["label"]) if row["label"] else None,
            split=row["split"],
            group=row["group"],
            num_frames=int(row["num_frames"]) if row["num_frames"] else None,
            fps=float(row["fps"]) if row["fps"] else None,
        )
    except ValueError as error:
        raise UserError(f"{place}: label, num_frames and fps must be numbers ({error})") from error


def _order_classes(path: Path, rows: Sequence[_Row]) -> tuple[str, ...]:
    names = sorted({row.class_name for row in rows})
    if not names:
        raise UserError(f"{path}: lists no videos; write a row for each")
    if rows[0].label is None:
        return tuple(names)
    labels: dict[str, int] = {}
    classes: dict[int, str] = {}
    for row in rows:
        label = -1 if row.label is None else row.label
        if labels.setdefault(row.class_name, label) != label:
            raise UserError(
                f"{row.place}: class {row.class_name} has label {label} here and "
                f"{labels[row.class_name]} above; a class has one label"
            )
        if classes.setdefault(label, row.class_name) != row.class_name:
            raise UserError(
                f"{row.place}: label {label} stands for {row.class_name} here and for "
                f"{classes[label]} above; a label has one class"
            )
    if set(classes) != set(range(len(names))):
        raise UserError(
            f"{path}: labels of {len(names)} classes must be 0 to {len(names) - 1} without gaps, "
            f"not {sorted(classes)[0]} to {sorted(classes)[-1]}; a class without videos needs "
            "a row with its name and label alone"
        )
    return tuple(classes[label] for label in range(len(names)))


def write_manifest(
    path: Path, class_names: Sequence[str], splits: Mapping[Split, Sequence[VideoRecord]]
) -> None:
    """Write a manifest that `read_dataset` reads back as it is, order of classes included.

    Videos below the manifest's folder are named relative to it, so that folder may move; others
    are named in full. The file appears whole or not at all.

    Args:
        path: The CSV file; its folder is made where needed.
        class_names: All classes, in the order of the labels.
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
                where = _absolute(r.path)
                place = where.relative_to(folder) if where.is_relative_to(folder) else where
                name = place.as_posix()
                if name != name.strip():
                    # Readers strip cells; what stands between slashes keeps its spaces.
                    name = os.path.join(".", name, "")  # noqa: PTH118
                head = [name, class_names[r.label], r.label, split]
                writer.writerow([*head, r.group, r.num_frames, r.fps])


def _absolute(path: Path) -> Path:
    # Unlike `resolve`, follows no links: linked videos keep their place below the manifest.
    return Path(os.path.abspath(path))  # noqa: PTH100
