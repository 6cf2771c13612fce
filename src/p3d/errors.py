"""Errors that are caused by the user's input."""

from __future__ import annotations

from pathlib import Path


def printable(text: object) -> str:
    """Return text with non-printable characters escaped; file names can contain any bytes."""
    return "".join(c if c.isprintable() else repr(c)[1:-1] for c in str(text))


class UserError(Exception):
    """A mistake that the user can fix.

    The message is one line: the value, the rule that it breaks, and the remedy. The command line
    prints it without a traceback and exits with code 2.
    """


class BadVideoError(UserError):
    """A video that cannot be read.

    Args:
        path: The video file or frame folder.
        reason: A short phrase without the path.
    """

    def __init__(self, path: Path | str, reason: str) -> None:
        super().__init__(f"{printable(path)}: {reason}")
        self.path = Path(path)
        self.reason = reason

    def __reduce__(self) -> tuple[type[BadVideoError], tuple[Path, str]]:
        """Support pickling, for errors in worker processes."""
        return (BadVideoError, (self.path, self.reason))
