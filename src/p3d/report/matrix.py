"""The confusion matrix as plain data; the macro `matrix` in `templates/parts.html` draws it."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import NamedTuple

from torch import Tensor

from p3d.errors import printable
from p3d.system.text import columns, shorten

COUNTED = 20
"""Most classes for which cells hold numbers."""
NAMED = 150
"""Most classes that are labeled by name; more are labeled by number."""

_FULL_WIDTH = 1050.0


class Cell(NamedTuple):
    """A cell with videos: its place, how strong its color is, and its texts.

    Attributes:
        x: Left side.
        y: Upper side.
        opacity: Of its color, in (0, 1].
        is_right: Whether it is on the diagonal.
        label: Number of videos; "" where cells are too small.
        is_strong: Whether the color is so strong that its number needs another color.
        tip: What the cell counts; "" where there are too many cells.
    """

    x: float
    y: float
    opacity: float
    is_right: bool
    label: str
    is_strong: bool
    tip: str


class Label(NamedTuple):
    """The label of a class: the middle of its row or column, and its text."""

    middle: float
    text: str


@dataclass(frozen=True)
class Matrix:
    """A drawing of a confusion matrix; lengths are in pixels.

    Attributes:
        description: What it shows, for screen readers.
        width: Width of the drawing.
        height: Height of the drawing.
        left: Width of the labels of the rows.
        top: Height of the labels of the columns.
        size: Width and height of a cell.
        side: Width and height of all cells.
        font: Size of the labels.
        cells: Cells with videos.
        labels: Labels of the rows, which are also those of the columns.
        lines: Distances of the lines that guide the eye.
        is_wide: Whether it needs the full width of the page.
        is_numbered: Whether classes are labeled by number, from 1.
    """

    description: str
    width: float
    height: float
    left: float
    top: float
    size: float
    side: float
    font: float
    cells: tuple[Cell, ...]
    labels: tuple[Label, ...]
    lines: tuple[float, ...]
    is_wide: bool
    is_numbered: bool


def draw_matrix(counts: Tensor, class_names: Sequence[str]) -> Matrix:
    """Lay out a confusion matrix; each row is colored by fractions of its class.

    Up to `COUNTED` classes the cells hold numbers. With more, the color grows with the square
    root of the fraction, so that rare mistakes can be seen.

    Args:
        counts: int64 `(num_classes, num_classes)`; row = true class, column = predicted class.
        class_names: Class names by index.
    """
    classes = len(class_names)
    is_wide = classes > COUNTED
    texts = _texts(class_names)
    size = _cell_size(classes)
    font = min(12.0, max(size * 0.95, 7.5)) if classes <= NAMED else 11.0
    label = 0.56 * font * max(map(columns, texts.values())) + 26
    side = size * classes
    return Matrix(
        description=f"{classes} classes, {int(counts.trace())} of {int(counts.sum())} videos on "
        "the diagonal",
        width=label + side + (0 if is_wide else 0.6 * label),
        height=label + side + 2,
        left=label,
        top=label,
        size=size,
        side=side,
        font=font,
        cells=tuple(_cells(counts, class_names, size)),
        labels=tuple(Label((index + 0.5) * size, text) for index, text in texts.items()),
        lines=tuple(size * n for n in range(10, classes, 10)) if is_wide else (),
        is_wide=is_wide,
        is_numbered=classes > NAMED,
    )


def _cell_size(classes: int) -> float:
    if classes <= COUNTED:
        return 40.0 if classes <= 6 else 34.0 if classes <= 12 else 26.0
    return min(20.0, (_FULL_WIDTH - 150) / classes)


def _texts(class_names: Sequence[str]) -> dict[int, str]:
    """Return the labels by index of their class."""
    if len(class_names) > NAMED:
        step = 10 * max(1, len(class_names) // 200)
        return {index: str(index + 1) for index in range(step - 1, len(class_names), step)}
    return {index: shorten(printable(name)) for index, name in enumerate(class_names)}


def _cells(counts: Tensor, class_names: Sequence[str], size: float) -> list[Cell]:
    totals, classes = counts.sum(1).tolist(), len(class_names)
    cells = []
    for row, column in counts.nonzero().tolist():
        count = int(counts[row, column])
        fraction = count / totals[row]
        opacity = fraction if classes <= COUNTED else 0.25 + 0.75 * fraction**0.5
        tip = f"{class_names[row]} predicted as {class_names[column]}: {count} of {totals[row]}"
        cells.append(
            Cell(
                round(column * size, 2),
                round(row * size, 2),
                round(max(opacity, 0.12), 2),
                row == column,
                str(count) if classes <= COUNTED else "",
                opacity > 0.6,
                tip if classes <= NAMED else "",
            )
        )
    return cells
