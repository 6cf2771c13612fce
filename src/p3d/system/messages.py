"""Remarks to the user of a command, apart from its output."""

from __future__ import annotations

import sys

from p3d.errors import printable


def print_note(text: str) -> None:
    """Print a remark on stderr, on one line."""
    print(f"p3d: {printable(text)}", file=sys.stderr)
