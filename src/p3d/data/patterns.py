"""Names of videos relative to their data set, and patterns that capture a part of them."""

from __future__ import annotations

import re
from collections.abc import Callable
from pathlib import Path

from p3d.errors import UserError


def name_of(path: Path, folder: Path) -> str:
    """Return a video's path below a data set's folder with slashes; the whole path if elsewhere."""
    return path.as_posix().removeprefix(f"{folder.as_posix()}/")


def compile_pattern(option: str, pattern: str, what: str) -> Callable[[str], str]:
    """Return a function that finds what a pattern captures in a name, "" if nothing.

    Args:
        option: The option that gives the pattern, for messages.
        pattern: A regular expression with one pair of parentheses.
        what: What it captures, such as "the group".

    Raises:
        UserError: It is not a regular expression, or has another number of parentheses.
    """
    try:
        regex = re.compile(pattern)
    except re.error as error:
        raise UserError(
            f"{option} {pattern!r} is not a valid regular expression: {error}"
        ) from error
    if regex.groups != 1:
        raise UserError(
            f"{option} {pattern!r} has {regex.groups} pairs of parentheses; "
            f"it needs one, around {what}"
        )

    def find(name: str) -> str:
        match = regex.search(name)
        return (match[1] or "") if match else ""

    return find
