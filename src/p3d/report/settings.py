"""Options and other nested values as rows of a table."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

Settings = list[tuple[str, list[tuple[str, str | None]]]]
"""Titles of tables, and their rows: a name and its value, None for "none"."""


def list_settings(parts: Mapping[str, Mapping[str, Any]]) -> Settings:
    """Return the values of each part by its title; parts without values are left out."""
    return [(title, list(_flatten(values))) for title, values in parts.items() if values]


def _flatten(values: Mapping[str, Any]) -> Iterator[tuple[str, str | None]]:
    for name, value in values.items():
        if isinstance(value, dict):
            yield from _flatten(value)
        else:
            yield name.replace("_", " "), _format(value)


def _format(value: object) -> str | None:
    if value is None or value == []:
        return None
    if isinstance(value, bool):
        return "yes" if value else "no"
    if isinstance(value, list):
        return ", ".join(map(str, value))
    return f"{value:g}" if isinstance(value, float) else str(value)
