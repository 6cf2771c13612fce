"""Figures as SVG that stands inside a page, and the confusion matrix (needs matplotlib)."""

from __future__ import annotations

import html
import io
import re
import warnings
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any, NamedTuple

import matplotlib as mpl
import numpy as np
from matplotlib.axes import Axes
from matplotlib.colors import PowerNorm
from matplotlib.figure import Figure
from numpy.typing import NDArray

from p3d.errors import printable
from p3d.report.record import Answers

INK = "#5a6372"
_LABELLED_CLASSES = 30
_COUNTED_CLASSES = 20
_CRISP_CLASSES = 400

_STYLE: Any = {  # its own type is the list of all settings that matplotlib has
    "axes.axisbelow": True,
    "axes.edgecolor": "#c3c9d4",
    "axes.grid": True,
    "axes.grid.axis": "y",
    "axes.labelcolor": INK,
    "axes.spines.left": False,
    "axes.spines.right": False,
    "axes.spines.top": False,
    "figure.facecolor": "none",
    "axes.facecolor": "none",
    "font.size": 9,
    "grid.color": "#e6e9ef",
    "grid.linewidth": 0.8,
    "legend.borderpad": 0,
    "legend.frameon": False,
    "lines.linewidth": 1.7,
    "lines.markersize": 4,
    "svg.fonttype": "none",
    "svg.hashsalt": "p3d",
    "text.parse_math": False,
    "xtick.color": INK,
    "xtick.major.size": 0,
    "ytick.color": INK,
    "ytick.major.size": 0,
}


class Chart(NamedTuple):
    """A figure of the report: its heading, a sentence about it, and the picture."""

    title: str
    caption: str
    svg: str


@contextmanager
def figure_style() -> Iterator[None]:
    """Draw in the style of the report's page."""
    # Names of classes may be in any script; the browser has the letters that matplotlib lacks.
    with mpl.rc_context(_STYLE), warnings.catch_warnings():
        for message in ("Glyph .* missing from", "Matplotlib currently does not support"):
            warnings.filterwarnings("ignore", message=message)
        yield


def draw_confusion_matrix(answers: Answers) -> Chart:
    """The confusion matrix; names on its sides for few classes, numbers for many."""
    confusion, names = answers.accuracy.confusion.numpy(), answers.class_names
    classes = len(names)
    shares = confusion / confusion.sum(1, keepdims=True).clip(1)
    with figure_style():
        figure = Figure(figsize=(5.4, 5.4), layout="constrained")
        axes = figure.add_subplot()
        axes.grid(visible=False)
        # Many classes make small cells: a rare mistake must still be seen.
        shade = PowerNorm(1 if classes <= _LABELLED_CLASSES else 0.5, vmin=0, vmax=1)
        axes.imshow(shares, norm=shade, cmap="Blues", interpolation="none")
        if classes <= _LABELLED_CLASSES:
            short = [_shorten(printable(name)) for name in names]
            font = 8 if classes <= _COUNTED_CLASSES else 6.5
            axes.set_xticks(range(classes), short, rotation=90, fontsize=font)
            axes.set_yticks(range(classes), short, fontsize=font)
        else:
            every = 10 * max(1, classes // 100)
            ticks = range(every - 1, classes, every)
            axes.set_xticks(ticks, [str(tick + 1) for tick in ticks])
            axes.set_yticks(ticks, [str(tick + 1) for tick in ticks])
        axes.set_xlabel("answer")
        axes.set_ylabel("class")
        if classes <= _COUNTED_CLASSES:
            _write_counts(axes, confusion, shares)
        caption = "Rows are classes, columns answers; the shade is the share of the row."
        if classes > _LABELLED_CLASSES:
            caption += " Numbers as in the table."
        right = int(confusion.trace())
        told = f"{classes} classes, {right} of {answers.accuracy.videos} videos on the diagonal"
        drawn = make_chart(figure, "Confusion matrix", caption, [told])
    if classes <= _CRISP_CLASSES:
        return drawn
    # Smaller than pixels, cells must blend: the nearest one alone would hide the others.
    return drawn._replace(svg=re.sub(r"image-rendering:\s*[\w-]+;?", "", drawn.svg))


def _write_counts(axes: Axes, confusion: NDArray[np.int64], shares: NDArray[np.float64]) -> None:
    for row, column_ in np.argwhere(confusion):
        axes.text(
            column_,
            row,
            str(confusion[row, column_]),
            ha="center",
            va="center",
            fontsize=8,
            color="white" if shares[row, column_] > 0.5 else "#1f2733",
        )


def _shorten(name: str, most: int = 24) -> str:
    return name if len(name) <= most else f"{name[: most - 1]}…"


def make_chart(figure: Figure, title: str, caption: str, told: Sequence[str]) -> Chart:
    """A chart of a figure; `told` says in words what there is to see."""
    words = "; ".join(part for part in told if part)
    return Chart(title, caption, _svg(figure, title, words))


def _svg(figure: Figure, title: str, words: str) -> str:
    """The figure as an `svg` element with a title and a description, free of outside names."""
    file = io.StringIO()
    figure.savefig(file, format="svg")
    text = file.getvalue()
    text = text[text.index("<svg") :]
    text = re.sub(r"<metadata>.*?</metadata>", "", text, flags=re.DOTALL)
    text = re.sub(r"<defs>\s*<style.*?</style>\s*</defs>", "", text, flags=re.DOTALL)
    text = re.sub(r' xmlns(:\w+)?="[^"]*"', "", text)
    # Several figures share a page: what they define must not have the same name.
    name = re.sub(r"\W+", "-", title.lower())
    text = re.sub(r'(\bid="|href="#|url\(#)', rf"\g<1>{name}-", text)
    head = re.search(r'viewBox="[^"]*"', text)
    assert head is not None
    body = text[text.index(">") + 1 :]
    return (
        f'<svg {head[0]} role="img" aria-labelledby="{name}-title {name}-words">'
        f'<title id="{name}-title">{html.escape(title)}</title>'
        f'<desc id="{name}-words">{html.escape(words)}</desc>{body}'
    )
