"""The two ways in which p3d says that the input, not the program, is at fault."""

from __future__ import annotations

from pathlib import Path


def printable(text: object) -> str:
    """Text that takes one line and that any terminal takes: file names may hold any bytes."""
    return "".join(c if c.isprintable() else repr(c)[1:-1] for c in str(text))


class UserError(Exception):
    """A mistake that the user can mend.

    The message is one line: the value, the rule it breaks, the remedy. The command line prints it
    without a traceback and ends with exit code 2.
    """


class BadVideoError(UserError):
    """A video that cannot be read as asked.

    Args:
        path: The file or frame folder at fault.
        reason: Why, as a short phrase without the path.
    """

    def __init__(self, path: Path | str, reason: str) -> None:
        super().__init__(f"{printable(path)}: {reason}")
        self.path = Path(path)
        self.reason = reason

    def __reduce__(self) -> tuple[type[BadVideoError], tuple[Path, str]]:
        """Survive the trip out of a loader's worker process."""
        return (BadVideoError, (self.path, self.reason))
