"""Plain text for people: tables and percentages."""

from __future__ import annotations

import json
import sys
import unicodedata
from collections.abc import Iterable, Sequence
from itertools import accumulate
from typing import Any

from p3d.errors import printable

_SHOWN = 5
"""Lines of a list that a message shows."""


def format_table(header: Sequence[str], rows: Iterable[Sequence[object]]) -> str:
    """Return a table as plain text: the first column aligned left, the others right.

    Characters that cannot be printed are escaped.
    """
    cells = [[printable(cell) for cell in row] for row in (header, *rows)]
    widths = [max(columns(row[i]) for row in cells) for i in range(len(header))]
    lines = [
        "  ".join(
            pad(cell, width, right=i > 0)
            for i, (cell, width) in enumerate(zip(row, widths, strict=True))
        ).rstrip()
        for row in cells
    ]
    return "\n".join([lines[0], "-" * columns(lines[0]), *lines[1:]])


def first_lines(lines: Sequence[object]) -> list[str]:
    """Return the first of some lines for a list in a message, indented, and how many follow."""
    first = [f"  {printable(line)}" for line in lines[:_SHOWN]]
    return first + [f"  and {len(lines) - _SHOWN:,} more"] * (len(lines) > _SHOWN)


def columns(text: str) -> int:
    """Return how many columns a text takes in a terminal.

    Chinese, Japanese and Korean characters and emoji take two, accents and other marks none.
    """
    return len(text) if text.isascii() else sum(map(_columns_of, text))


def _columns_of(character: str) -> int:
    if unicodedata.category(character) in ("Mn", "Me"):
        return 0
    return 2 if unicodedata.east_asian_width(character) in "WF" else 1


def pad(text: str, width: int, *, right: bool = False) -> str:
    """Return a text filled up with spaces to a number of columns; aligned left, or else right."""
    spaces = " " * (width - columns(text))
    return spaces + text if right else text + spaces


def fill(text: str, width: int = 80) -> str:
    """Return a text in lines of at most a number of columns, broken at spaces.

    A word that is longer has a line of its own.
    """
    lines: list[str] = []
    for word in text.split():
        longer = f"{lines[-1]} {word}" if lines else ""
        if lines and columns(longer) <= width:
            lines[-1] = longer
        else:
            lines.append(word)
    return "\n".join(lines)


def shorten(text: str, limit: int = 24) -> str:
    """Return a text cut to a number of columns, the last of which is then "…"."""
    if columns(text) <= limit:
        return text
    ends = accumulate(map(_columns_of, text))
    return text[: sum(end < limit for end in ends)] + "…"


def shorten_path(path: str, limit: int = 24) -> str:
    """Return a path cut to a number of columns, the first of which is then "…"."""
    if columns(path) <= limit:
        return path
    ends = accumulate(map(_columns_of, reversed(path)))
    return "…" + path[len(path) - sum(end < limit for end in ends) :]


def counted(number: int, noun: str) -> str:
    """Return a number with its noun: `1 video`, `1,200 videos`, `2 classes`."""
    ending = "" if number == 1 else "es" if noun.endswith("s") else "s"
    return f"{number:,} {noun}{ending}"


def json_line(value: Any) -> str:
    """Return a value as JSON on one line, for stdout.

    Characters that are not printable, or not in the encoding of stdout, are JSON escapes.
    """
    text = json.dumps(value, ensure_ascii=False)
    try:
        text.encode(sys.stdout.encoding or "ascii")
    except UnicodeEncodeError:
        return json.dumps(value)
    return "".join(c if c.isprintable() else json.dumps(c)[1:-1] for c in text)


def format_percent(fraction: float | None) -> str:
    """Return a fraction (0 to 1) as a percentage, or an empty string for None."""
    return "" if fraction is None else f"{100 * fraction:.1f}%"


def format_duration(seconds: float) -> str:
    """Return a time in plain words: `45 s`, `27 min`, `2 h 10 min` or `3 d 4 h`."""
    if seconds < 99.5:
        return f"{seconds:.0f} s"
    minutes = round(seconds / 60)
    if minutes < 60:
        return f"{minutes} min"
    hours, minutes = divmod(minutes, 60)
    if hours < 48:
        return f"{hours} h {minutes} min"
    return f"{hours // 24} d {hours % 24} h"


def describe_rates(rates: tuple[float, float]) -> str:
    """Return a range of frame rates, such as `25 to 30 frames a second`."""
    low, high = (f"{rate:.4g}" for rate in rates)
    return f"{low} frames a second" if low == high else f"{low} to {high} frames a second"
