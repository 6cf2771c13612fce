"""Write CSV manifests, see `p3d.data.manifest`."""

from __future__ import annotations

import csv
import os
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path

from p3d.data.columns import COLUMNS, TIMES
from p3d.data.dataset import WHOLE, Part, VideoRecord
from p3d.errors import UserError
from p3d.system.files import replacing, writing


def write_manifest(
    path: Path, class_names: Sequence[str], splits: Mapping[Part, Sequence[VideoRecord]]
) -> None:
    """Write a manifest from which the same data set is read.

    Videos below the manifest's folder are listed relative to it, so that the folder can be moved;
    others are listed by absolute path. The file is replaced atomically.

    Args:
        path: The CSV file; its folder is created if needed.
        class_names: All classes, in the order of their labels.
        splits: The videos of each split; those of None are in no split.

    Raises:
        UserError: A video has no class, a class or group has spaces at its ends, which readers
            remove, or the file cannot be written.
    """
    _check_writable(class_names, splits)
    folder = _absolute(path.parent)
    shown = {record.label for records in splits.values() for record in records}
    everything = [record for records in splits.values() for record in records]
    has_times = any(record.segment != WHOLE for record in everything)
    rows: list[Sequence[object]] = [(*COLUMNS, *TIMES) if has_times else COLUMNS]
    empty = ("",) * (len(rows[0]) - 3)
    rows += (
        ("", name, label, *empty) for label, name in enumerate(class_names) if label not in shown
    )
    for split, records in splits.items():
        for r in records:
            name = _name_from(folder, r.path)
            times = r.segment if has_times else ()
            label = class_names[r.label]
            rows.append((name, label, r.label, split, r.group, r.num_frames, r.fps, *times))
    with writing(path):
        path.parent.mkdir(parents=True, exist_ok=True)
        _write_rows(path, rows)


def _write_rows(path: Path, rows: Iterable[Sequence[object]]) -> None:
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
    class_names: Sequence[str], splits: Mapping[Part, Sequence[VideoRecord]]
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
