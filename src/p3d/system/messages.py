"""Remarks to the user of a command, apart from its output."""

from __future__ import annotations

import sys
from contextlib import suppress

from p3d.errors import printable


def print_note(text: str) -> None:
    """Print a remark on stderr, on one line."""
    print(f"p3d: {printable(text)}", file=sys.stderr)


def print_warning(message: str) -> None:
    """Print a warning on stderr, on one line."""
    with suppress(OSError):  # stderr may be a file on a full disk
        print(f"p3d: warning: {printable(message)}", file=sys.stderr, flush=True)
