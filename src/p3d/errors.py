"""Errors that are caused by the user's input."""

from __future__ import annotations

from collections.abc import Collection
from pathlib import Path

_BLANK = frozenset("\u034f\u115f\u1160\u17b4\u17b5\u2800\u3164\uffa0")
"""Characters that Unicode counts as printable, but that show nothing."""


def printable(text: object) -> str:
    """Return text in one line that shows each of its characters.

    Names of files can contain any bytes. Control characters, bytes that are not UTF-8, and what is
    invisible or changes the direction of text are escaped as in Python's `ascii`.
    """
    text = str(text)
    if text.isascii() and text.isprintable():
        return text
    return "".join(c if c.isprintable() and c not in _BLANK else ascii(c)[1:-1] for c in text)


def report_cell(text: object) -> str:
    """Return printable text for a CSV report, which spreadsheets do not take for a formula.

    An apostrophe before `=`, `+`, `-` or `@` makes them show the rest as it is. Not for files that
    programs read back, such as manifests.
    """
    shown = printable(text)
    return f"'{shown}" if shown.startswith(("=", "+", "-", "@")) else shown


class UserError(Exception):
    """A mistake that the user can fix.

    The message is one line: the value, the rule that it breaks, and the remedy. It is made
    printable, since values come from files. The command line prints it without a traceback and
    exits with code 2.
    """

    def __init__(self, message: str) -> None:
        super().__init__(printable(message))


class BadVideoError(UserError):
    """A video that cannot be read.

    Args:
        path: The video file or frame folder.
        reason: A short phrase without the path.
    """

    def __init__(self, path: Path | str, reason: str) -> None:
        super().__init__(f"{path}: {reason}")
        self.path = Path(path)
        self.reason = reason

    def __reduce__(self) -> tuple[type[BadVideoError], tuple[Path, str]]:
        """Support pickling, for errors in worker processes."""
        return (type(self), (self.path, self.reason))


class OtherFlowError(BadVideoError):
    """A video whose optical flow was computed in another way than the network takes.

    Training stops at it whatever its policy is: the videos of a data set are to be alike.
    """


def check_choice(what: str, value: object, choices: Collection[str]) -> None:
    """Check a word of a caller in Python, as the command line checks those of its options.

    Raises:
        UserError: It is none of the choices.
    """
    if not isinstance(value, str) or value not in choices:
        raise UserError(
            f"no {what} is called {printable(repr(value))[:40]}; choose one of: "
            f"{', '.join(choices)}"
        )
