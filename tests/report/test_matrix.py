"""The layout of the confusion matrix."""

from __future__ import annotations

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from p3d.report.matrix import Cell, draw_matrix


def test_small_matrix_is_small_and_holds_counts() -> None:
    matrix = draw_matrix(torch.tensor([[3, 1], [0, 2]]), ("fall", "no_fall"))
    assert matrix.cells == (
        Cell(0.0, 0.0, 0.75, True, "3", True, "fall predicted as fall: 3 of 4"),
        Cell(40.0, 0.0, 0.25, False, "1", False, "fall predicted as no_fall: 1 of 4"),
        Cell(40.0, 40.0, 1.0, True, "2", True, "no_fall predicted as no_fall: 2 of 2"),
    )
    assert [(label.middle, label.text) for label in matrix.labels] == [
        (20, "fall"),
        (60, "no_fall"),
    ]
    assert matrix.width < 250
    assert not matrix.is_wide
    assert matrix.description == "2 classes, 5 of 6 videos on the diagonal"


def test_names_are_shortened_and_printable() -> None:
    matrix = draw_matrix(torch.eye(2, dtype=torch.int64), ("two\nlines", "long " * 20))
    assert [label.text for label in matrix.labels] == [r"two\nlines", "long long long long lon…"]


def test_wide_names_have_room() -> None:
    counts = torch.eye(2, dtype=torch.int64)
    wide, narrow = (draw_matrix(counts, (c * 20, "b")) for c in "走a")
    assert wide.labels[0].text == "走" * 11 + "…"
    assert wide.left - narrow.left == pytest.approx(3 * 0.56 * wide.font)


@pytest.mark.parametrize("classes", [21, 101, 150])
def test_large_matrix_has_all_names_and_fits_the_page(classes: int) -> None:
    names = [f"class {number}" for number in range(classes)]
    matrix = draw_matrix(torch.eye(classes, dtype=torch.int64), names)
    assert [label.text for label in matrix.labels] == names
    assert matrix.width < 1056
    assert matrix.is_wide
    assert not matrix.is_numbered


def test_very_large_matrix_is_numbered() -> None:
    matrix = draw_matrix(torch.eye(400, dtype=torch.int64), ["x"] * 400)
    assert [label.text for label in matrix.labels] == [str(n) for n in range(20, 401, 20)]
    assert matrix.is_numbered
    assert not any(cell.tip or cell.label for cell in matrix.cells)


@settings(deadline=None, max_examples=30)
@given(st.integers(1, 30), st.data())
def test_every_count_has_its_cell(classes: int, data: st.DataObject) -> None:
    pair = st.tuples(st.integers(0, classes - 1), st.integers(0, classes - 1))
    counts = torch.zeros(classes, classes, dtype=torch.int64)
    for row, column in data.draw(st.lists(pair, max_size=20)):
        counts[row, column] += 1
    matrix = draw_matrix(counts, [str(number) for number in range(classes)])
    found = {(round(c.y / matrix.size), round(c.x / matrix.size)): c for c in matrix.cells}
    assert sorted(found) == [tuple(place) for place in counts.nonzero().tolist()]
    for (row, column), cell in found.items():
        count, total = int(counts[row, column]), int(counts[row].sum())
        assert cell.tip == f"{row} predicted as {column}: {count} of {total}"
        assert cell.is_right == (row == column)
        assert 0 < cell.opacity <= 1
