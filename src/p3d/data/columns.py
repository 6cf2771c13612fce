"""Columns of CSV files of labels: p3d's own names, and the obvious ones of others."""

from __future__ import annotations

import csv
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from p3d.errors import UserError, printable
from p3d.system.spelling import describe_unread

COLUMNS = ("path", "class", "label", "split", "group", "num_frames", "fps")
"""Columns of a manifest, as it is written."""

TIMES = ("start", "end")
"""Columns that a manifest of segments has too: seconds from the first frame."""

_PATHS = ("file", "filename", "file_name", "filepath", "file_path", "video", "video_path", "clip")
_CLASSES = ("class_name", "classname", "category", "action", "label")
_OTHER_NAMES = {"path": _PATHS, "class": _CLASSES, "split": ("subset", "partition")}


@dataclass(frozen=True)
class Columns:
    """Where the values of a row are.

    Attributes:
        header: All columns of the file.
        header_of: Name in the file of each column of `COLUMNS` and `TIMES` that it has.
        notes: A line for the user if columns have other names.
    """

    header: tuple[str, ...]
    header_of: Mapping[str, str]
    notes: tuple[str, ...]

    def read(self, location: str, cells: Sequence[str]) -> dict[str, str]:
        """Return a row's values by the names of the columns, stripped; "" for absent columns.

        Raises:
            UserError: The row has another number of cells, or a NUL character.
        """
        if len(cells) != len(self.header):
            raise UserError(
                f"{location}: has {len(cells)} cells, but the header has {len(self.header)}"
            )
        if "\0" in "".join(cells):
            raise UserError(f"{location}: has a NUL character; save the manifest as UTF-8")
        row = dict(zip(self.header, map(str.strip, cells), strict=True))
        return {name: row.get(self.header_of.get(name, ""), "") for name in (*COLUMNS, *TIMES)}


def find_delimiter(header: str) -> str:
    """Return what divides the cells of a file, by its first line: a comma, semicolon or tab."""
    return max(",;\t", key=header.count)


def read_cells(path: Path) -> Iterator[tuple[str, list[str]]]:
    """Yield the location (`labels.csv:3`) and the cells of each row that is not blank.

    Raises:
        UserError: The file cannot be read, is no CSV file, or is in UTF-16, as spreadsheets and
            their text files may be.
    """
    try:
        with path.open(encoding="utf-8-sig", errors="surrogateescape", newline="") as file:
            first = file.readline()
            if "\0" in first:
                raise UserError(f"{path}: is not UTF-8 text; save it as CSV in UTF-8")
            file.seek(0)
            reader = csv.reader(
                file, strict=True, skipinitialspace=True, delimiter=find_delimiter(first)
            )
            yield from ((f"{path}:{reader.line_num}", cells) for cells in reader if any(cells))
    except OSError as error:
        raise UserError(f"{path}: {describe_unread(path, error)}") from error
    except csv.Error as error:
        raise UserError(f"{path}: cannot be read as CSV in UTF-8 ({error})") from error


def find_columns(
    path: Path, header: Sequence[str], needed: Sequence[str] = ("path", "class")
) -> Columns:
    """Find the columns of a file of labels.

    Args:
        path: The file, for messages.
        header: The cells of its first row.
        needed: The columns that it must have.

    Raises:
        UserError: A needed column is absent, or one that is read is there twice.
    """
    names = tuple(name.strip().lower() for name in header)
    found = {name: name for name in (*COLUMNS, *TIMES) if name in names}
    for column, others in _OTHER_NAMES.items():
        other = next((name for name in others if name in names), None)
        if column not in found and other is not None:
            found[column] = other
            if other == "label":
                del found["label"]
    for column in needed:
        if column not in found:
            shown = ", ".join(map(repr, names)) or "empty"
            more = ", and may have split and group" if "class" in needed else ""
            raise UserError(
                f"{path}: the header has no column {column} (or {', '.join(_OTHER_NAMES[column])}),"
                f" it is {printable(shown)[:80]}; it needs {' and '.join(needed)}{more}"
            )
    if twice := [name for name in found.values() if names.count(name) > 1]:
        raise UserError(f"{path}: the header has the column {twice[0]} twice; keep one of them")
    renamed = [f"{c} from {name!r}" for c, name in found.items() if c != name]
    notes = (f"COLUMNS of {path.name}: {', '.join(renamed)}",) if renamed else ()
    return Columns(names, found, notes)
