"""CSV files that a spreadsheet can open without running their cells as formulas."""

from __future__ import annotations

import csv
import re
from collections.abc import Iterable, Sequence
from pathlib import Path
from types import SimpleNamespace

from p3d.system.files import write_text


def write_csv(path: Path, header: Sequence[str], rows: Iterable[Sequence[object]]) -> None:
    """Write a CSV file, like `write_text`.

    A cell that a spreadsheet would run as a formula gets an apostrophe in front, which
    `plain_cell` removes.
    """
    write_text(path, "".join(csv_line(row) for row in (header, *rows)))


def csv_line(cells: Iterable[object]) -> str:
    """Return a row of a CSV file, as `write_csv` writes it."""
    lines: list[str] = []
    # csv quotes a carriage return in a cell only if it is a part of the line terminator.
    writer = csv.writer(SimpleNamespace(write=lines.append), lineterminator="\r\n")
    writer.writerow([_safe_cell(cell) for cell in cells])
    return lines[0].removesuffix("\r\n") + "\n"


# Also cells that begin so after apostrophes, so that `plain_cell` undoes every escape.
_FORMULA = re.compile(r"'*[=+\-@\t\r]")


def _safe_cell(cell: object) -> object:
    if isinstance(cell, int | float) or not _FORMULA.match(str(cell)):
        return cell
    return f"'{cell}"


def plain_cell(cell: str) -> str:
    """Return a cell of a file of `write_csv` as it was given."""
    return cell[1:] if cell.startswith("'") and _FORMULA.match(cell) else cell
