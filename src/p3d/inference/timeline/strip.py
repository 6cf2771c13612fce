"""A picture of a timeline: the probabilities of its classes over time, and the segments."""

from __future__ import annotations

import html
from collections.abc import Sequence
from pathlib import Path
from typing import Protocol

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageDraw

from p3d.errors import UserError, printable
from p3d.inference.timeline.segments import BACKGROUND
from p3d.inference.timeline.timeline import Timeline, format_time
from p3d.system.files import replacing
from p3d.system.fonts import draw_text, text_width
from p3d.system.text import shorten

SUFFIXES = (".svg", ".png")

_LEFT, _RIGHT, _TOP, _BOTTOM = 150, 40, 28, 24
"""Margins in pixels: labels, and the axis of time."""
_COLUMNS = 1000
"""Width of the scores in pixels."""
_ROW, _GAP = 40, 8
_MOST_ROWS = 16
"""Classes to draw: those with segments, and then those with the highest peaks."""
_TICKS = (0.1, 0.2, 0.5, 1, 2, 5, 10, 15, 30, 60, 120, 300, 600, 900, 1800, 3600, 7200, 14400)
_INK, _LINE, _PALE, _STRONG = "#3c4452", "#d8dde5", "#a9c5e8", "#2f6db5"

Points = Sequence[tuple[float, float]]


class _Canvas(Protocol):
    def rect(self, box: tuple[float, float, float, float], color: str) -> None:
        """Fill a rectangle: left, top, right, bottom."""

    def polygon(self, points: Points, color: str) -> None:
        """Fill a polygon."""

    def text(self, x: float, y: float, text: str, *, center: bool = False) -> None:
        """Write text with its top at y, and its left or its center at x."""

    def save(self, path: Path) -> None:
        """Write the file."""


class _Svg:
    def __init__(self, width: int, height: int) -> None:
        self._lines = [
            f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {width} {height}" '
            f'width="{width}" height="{height}" font-family="sans-serif" font-size="11">',
            f'<rect width="{width}" height="{height}" fill="white"/>',
        ]

    def rect(self, box: tuple[float, float, float, float], color: str) -> None:
        x, y, right, bottom = box
        self._lines.append(
            f'<rect x="{x:.1f}" y="{y:.1f}" width="{right - x:.1f}" height="{bottom - y:.1f}" '
            f'fill="{color}"/>'
        )

    def polygon(self, points: Points, color: str) -> None:
        path = " ".join(f"{x:.1f},{y:.1f}" for x, y in points)
        self._lines.append(f'<polygon points="{path}" fill="{color}"/>')

    def text(self, x: float, y: float, text: str, *, center: bool = False) -> None:
        anchor = ' text-anchor="middle"' * center
        self._lines.append(
            f'<text x="{x:.1f}" y="{y + 10:.1f}" fill="{_INK}"{anchor}>{html.escape(text)}</text>'
        )

    def save(self, path: Path) -> None:
        path.write_text("\n".join([*self._lines, "</svg>", ""]), encoding="utf-8")


class _Png:
    def __init__(self, width: int, height: int) -> None:
        self._image = Image.new("RGB", (width, height), "white")
        self._draw = ImageDraw.Draw(self._image)

    def rect(self, box: tuple[float, float, float, float], color: str) -> None:
        self._draw.rectangle(box, fill=color)

    def polygon(self, points: Points, color: str) -> None:
        self._draw.polygon(list(points), fill=color)

    def text(self, x: float, y: float, text: str, *, center: bool = False) -> None:
        left = x - text_width(text, 12) / 2 if center else x
        draw_text(self._draw, (left, y), text, 12, _INK)

    def save(self, path: Path) -> None:
        self._image.save(path, "PNG")


def write_strip(path: Path, timeline: Timeline) -> None:
    """Write a picture of a timeline, as SVG or PNG by the suffix.

    Raises:
        UserError: It cannot be written.
    """
    labels = _labels(timeline)
    width = _LEFT + _COLUMNS + _RIGHT
    height = _TOP + len(labels) * (_ROW + _GAP) + _BOTTOM
    canvas: _Canvas = (_Svg if path.suffix.lower() == ".svg" else _Png)(width, height)
    canvas.text(8, 8, f"{printable(timeline.name)}: {timeline.describe()}")
    _draw_axis(canvas, timeline.duration, height - _BOTTOM)
    for row, label in enumerate(labels):
        _draw_class(canvas, timeline, label, _TOP + row * (_ROW + _GAP))
    try:
        with replacing(path) as temporary:
            canvas.save(temporary)
    except OSError as error:
        raise UserError(f"{path}: cannot be written ({error.strerror})") from error


def _labels(timeline: Timeline) -> list[int]:
    """Return the classes to draw, in the order of the network."""
    found = {segment.label for segment in timeline.segments}
    names, peaks = timeline.class_names, timeline.scores.max(0)
    order = sorted(range(len(names)), key=lambda n: (names[n] not in found, -peaks[n]))
    return sorted(n for n in order[:_MOST_ROWS] if names[n] != BACKGROUND)


def _draw_axis(canvas: _Canvas, duration: float, bottom: float) -> None:
    step = next((tick for tick in _TICKS if duration / tick <= 10), duration / 10)
    for number in range(int(duration / step + 1e-9) + 1):
        x = _LEFT + _COLUMNS * number * step / duration
        canvas.rect((x, _TOP, x + 1, bottom), _LINE)
        time = format_time(number * step)
        canvas.text(x, bottom + 4, time if step < 1 else time.partition(".")[0], center=True)


def _draw_class(canvas: _Canvas, timeline: Timeline, label: int, top: float) -> None:
    """Draw the scores of a class as an area, over a bar for each of its segments."""
    name, base = printable(timeline.class_names[label]), top + _ROW - 6
    canvas.text(8, top + _ROW / 2 - 8, shorten(name, 22))
    scale = _COLUMNS / timeline.duration
    levels = base - (_ROW - 8) * _levels(timeline.times * scale, timeline.scores[:, label])
    steps = [(_LEFT + x + side, y) for x, y in enumerate(levels.tolist()) for side in (0, 1)]
    canvas.polygon([(_LEFT, base), *steps, (_LEFT + _COLUMNS, base)], _PALE)
    canvas.rect((_LEFT, base, _LEFT + _COLUMNS, base + 1), _LINE)
    for segment in timeline.segments:
        if segment.label == timeline.class_names[label]:
            left, right = _LEFT + segment.start * scale, _LEFT + segment.end * scale
            canvas.rect((left, base + 1, max(right, left + 1), base + 5), _STRONG)


def _levels(positions: NDArray[np.float64], scores: NDArray[np.float64]) -> NDArray[np.float64]:
    """Return the score to draw in each column: the highest of its windows, or the nearest one.

    Args:
        positions: Middles of the windows in columns.
        scores: Their scores.
    """
    columns = np.arange(_COLUMNS)
    edges = np.append((positions[1:] + positions[:-1]) / 2, np.inf)
    levels = scores[np.searchsorted(edges, columns + 0.5)]
    inside = positions.astype(int).clip(0, _COLUMNS - 1)
    np.maximum.at(levels, inside, scores)
    return levels
