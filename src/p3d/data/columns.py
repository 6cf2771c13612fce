"""Columns of CSV files of labels: p3d's own names, and the obvious ones of others."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from p3d.errors import UserError, printable

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


def find_columns(path: Path, header: Sequence[str]) -> Columns:
    """Find the columns of a file of labels.

    Args:
        path: The file, for messages.
        header: The cells of its first row.

    Raises:
        UserError: A column for the paths or the classes is absent.
    """
    names = tuple(name.strip().lower() for name in header)
    found = {name: name for name in (*COLUMNS, *TIMES) if name in names}
    for column, others in _OTHER_NAMES.items():
        other = next((name for name in others if name in names), None)
        if column not in found and other is not None:
            found[column] = other
            if other == "label":
                del found["label"]
    for column in ("path", "class"):
        if column not in found:
            shown = ", ".join(map(repr, names)) or "empty"
            raise UserError(
                f"{path}: the header has no column {column} (or {', '.join(_OTHER_NAMES[column])}),"
                f" it is {printable(shown)[:80]}; it needs path and class, and may have split and "
                "group"
            )
    renamed = [f"{c} from {name!r}" for c, name in found.items() if c != name]
    notes = (f"COLUMNS of {path.name}: {', '.join(renamed)}",) if renamed else ()
    return Columns(names, found, notes)
