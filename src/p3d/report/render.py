"""Render the templates of the pages: formats of numbers and paths, and the escaping of values."""

from __future__ import annotations

import math
import re
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING

from p3d.errors import printable

if TYPE_CHECKING:
    from jinja2 import Environment
    from markupsafe import Markup

MISSING = "—"
_BREAKS = re.compile(r"(?<=[a-z0-9])(?=[A-Z])|(?<=[_/])(?=[^_/])")
"""Where a name of several words may be broken: `Move|Together`, `v_|Biking_|g01`."""


def percent(value: float) -> str:
    """Format a fraction as a percentage."""
    return f"{value:.1%}" if math.isfinite(value) else MISSING


def decimal(value: float, digits: int = 3) -> str:
    """Format a number with a fixed count of decimals."""
    return f"{value:,.{digits}f}" if math.isfinite(value) else MISSING


def count(value: float) -> str:
    """Format a whole number."""
    return decimal(value, 0)


def rate(value: float) -> str:
    """Format a number per second."""
    return decimal(value, 1)


def duration(seconds: float) -> str:
    """Format a time in its two largest units."""
    if not math.isfinite(seconds):
        return MISSING
    if seconds < 60:
        return f"{seconds:.3g} s"
    minutes, rest = divmod(round(seconds), 60)
    if minutes < 60:
        return f"{minutes} min {rest} s"
    hours, minutes = divmod(minutes, 60)
    return f"{hours} h {minutes} min" if hours < 48 else f"{hours // 24} d {hours % 24} h"


def minute(date: object) -> str:
    """Format a date in ISO format to the minute, as in 2026-11-27 08:15."""
    return str(date)[:16].replace("T", " ") if date else ""


def short_path(path: Path) -> str:
    """Return a path relative to the current folder if it is in it."""
    try:
        return str(path.resolve().relative_to(Path.cwd()))
    except ValueError:
        return str(path)


def breakable(name: object) -> Markup:
    """Escape a name, and let narrow columns break it between its words."""
    from markupsafe import Markup

    return Markup("<wbr>").join(_BREAKS.split(printable(name)))


def render(template: str, **values: object) -> str:
    """Return the page that a template makes of values.

    Every value is escaped, and characters that cannot be printed are replaced by their codes.
    """
    return _environment().get_template(template).render(values)


@cache
def _environment() -> Environment:
    from jinja2 import Environment, PackageLoader, StrictUndefined  # only if a page is written

    environment = Environment(
        loader=PackageLoader("p3d.report"),
        autoescape=True,
        finalize=lambda value: value if hasattr(value, "__html__") else printable(value),
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
        keep_trailing_newline=True,
    )
    environment.filters |= {
        "breakable": breakable,
        "percent": percent,
        "decimal": decimal,
        "count": count,
        "split": str.split,
    }
    return environment
