"""A spreadsheet runs no cell of a CSV file, and every cell reads back."""

from __future__ import annotations

import csv
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from p3d.system.csv_file import plain_cell, write_csv

CELLS = st.text(st.sampled_from("'=+-@\t\r\n,\"a1é"), max_size=4)


@settings(max_examples=200, deadline=None)
@given(cells=st.lists(CELLS, min_size=1, max_size=4))
def test_no_csv_cell_is_a_formula_and_every_cell_reads_back(
    cells: list[str], tmp_path_factory: pytest.TempPathFactory
) -> None:
    path = tmp_path_factory.getbasetemp() / "cells.csv"
    write_csv(path, ("text", "-number"), [cells, (0.5, -1)])
    with path.open(encoding="utf-8", newline="") as file:
        header, row, numbers = csv.reader(file)
    assert header == ["text", "'-number"]
    assert not any(cell.startswith(("=", "+", "-", "@", "\t", "\r")) for cell in row)
    assert [plain_cell(cell) for cell in row] == cells
    assert numbers == ["0.5", "-1"]


@pytest.mark.parametrize("cell", ["walk", "'quoted'", "", "a=b", "0.5", "''"])
def test_harmless_cells_are_written_as_they_are(cell: str, tmp_path: Path) -> None:
    write_csv(tmp_path / "cells.csv", ("x", "y"), [(cell, 1)])
    assert (tmp_path / "cells.csv").read_text() == f"x,y\n{cell},1\n"
