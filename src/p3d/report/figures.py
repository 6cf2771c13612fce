"""Matplotlib figures as inline SVG, in the style of the report pages (needs matplotlib)."""

from __future__ import annotations

import io
import re
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any, NamedTuple

import matplotlib as mpl
from matplotlib.figure import Figure

INK, EDGE, GRID = "#5a6372", "#c3c9d4", "#e6e9ef"
BLUE, ORANGE, TEAL = "#2f6db5", "#d9730d", "#4c6b68"

_VARIABLES = {
    INK: "soft",
    EDGE: "edge",
    GRID: "line",
    BLUE: "blue",
    ORANGE: "orange",
    TEAL: "teal",
}
"""Names in `templates/style.css` of the colors, which differ in a dark scheme."""

_STYLE: Any = {  # Any: rc_context() expects a literal type of every setting.
    "axes.axisbelow": True,
    "axes.edgecolor": EDGE,
    "axes.facecolor": "none",
    "axes.grid": True,
    "axes.grid.axis": "y",
    "axes.labelcolor": INK,
    "axes.spines.left": False,
    "axes.spines.right": False,
    "axes.spines.top": False,
    "axes.xmargin": 0.02,
    "figure.facecolor": "none",
    "font.size": 9,
    "grid.color": GRID,
    "grid.linewidth": 0.8,
    "legend.borderpad": 0,
    "legend.columnspacing": 1.3,
    "legend.frameon": False,
    "legend.handlelength": 1.5,
    "legend.labelcolor": INK,
    "lines.linewidth": 1.7,
    "lines.markersize": 4,
    "path.simplify_threshold": 0.25,  # in pixels; limits the size of long curves
    "svg.fonttype": "none",
    "svg.hashsalt": "p3d",
    "text.parse_math": False,
    "xtick.color": INK,
    "xtick.major.pad": 6,
    "xtick.major.size": 0,
    "ytick.color": INK,
    "ytick.major.size": 0,
}


class Chart(NamedTuple):
    """A figure for a page.

    Attributes:
        title: Heading, unique within the page.
        caption: One sentence about the figure.
        description: What the figure shows, for screen readers.
        id: Prefix of every `id` in the SVG.
        view_box: `viewBox` of the `svg` element.
        body: SVG markup inside the `svg` element.
    """

    title: str
    caption: str
    description: str
    id: str
    view_box: str
    body: str


@contextmanager
def figure_style() -> Iterator[None]:
    """Apply the style of the report pages to the figures made and rendered in this context."""
    with mpl.rc_context(_STYLE):
        yield


def make_chart(figure: Figure, title: str, caption: str, description: str) -> Chart:
    """Render a figure as SVG that can be inlined into HTML next to other figures."""
    file = io.StringIO()
    figure.savefig(
        file, format="svg", metadata=dict.fromkeys(("Creator", "Date", "Format", "Type"))
    )
    head, _, body = file.getvalue().partition("<svg")[2].partition(">")
    # The style element would apply to the whole page.
    body = re.sub(r"<defs>\s*<style.*?</style>\s*</defs>", "", body, flags=re.DOTALL)
    body = body.removesuffix("</svg>\n")
    for color, name in _VARIABLES.items():
        body = body.replace(color, f"var(--{name})")
    # All figures of a page share one namespace of ids.
    chart_id = re.sub(r"\W+", "-", title.lower())
    body = re.sub(r'(\bid="|href="#|url\(#)', rf"\g<1>{chart_id}-", body)
    view_box = re.search(r'viewBox="([^"]*)"', head)
    assert view_box is not None
    return Chart(title, caption, description, chart_id, view_box[1], body)
