"""Which file a mistyped path may mean, for messages about files that are not there."""

from __future__ import annotations

import os
from difflib import get_close_matches
from itertools import islice
from pathlib import Path

_CUTOFF = 0.75
_MOST_NAMES = 10_000
"""Names of a folder that are looked at; comparing them takes a second or so."""


def ask_meant(path: Path | str, otherwise: str = "check the path") -> str:
    """Return the remedy for a path that does not exist, for a message: `did you mean films?`

    Args:
        path: What the user typed. Its first part that does not exist is compared with the names
            beside it.
        otherwise: The remedy if no name is close.
    """
    meant = nearest_path(Path(path))
    return otherwise if meant is None else f"did you mean {meant}?"


def describe_unread(path: Path | str, error: OSError) -> str:
    """Return why a file that the user named cannot be read, and the remedy.

    Args:
        path: The file.
        error: What opening or reading it raised.
    """
    is_missing = isinstance(error, FileNotFoundError)
    remedy = ask_meant(path) if is_missing else "check the path"
    return f"cannot be read ({error.strerror or error}); {remedy}"


def nearest_path(path: Path) -> Path | None:
    """Return the existing path that a mistyped one most likely stands for, or None."""
    parent, missing = path.parent, [path.name]
    while not os.path.isdir(parent) and parent != parent.parent:  # noqa: PTH112 (long names)
        missing.insert(0, parent.name)
        parent = parent.parent
    found = _nearest_name(parent, missing[0])
    if found is None:
        return None
    whole = found.joinpath(*missing[1:])
    return whole if whole.exists() else found


def _nearest_name(folder: Path, name: str) -> Path | None:
    """Return the entry of a folder whose name is closest to another, in any case.

    Suffixes do not count, since most names beside a file end alike.
    """
    try:
        with os.scandir(folder) as entries:
            names = [entry.name for entry in islice(entries, _MOST_NAMES)]
    except OSError:
        return None
    suffix = Path(name).suffix.lower()
    # Of several with one stem, the last one remains: one with the same suffix.
    names.sort(key=lambda each: (Path(each).suffix.lower() == suffix, each))
    by_stem = {_stem(each): each for each in names if each.startswith(".") == name.startswith(".")}
    close = get_close_matches(_stem(name), by_stem, n=1, cutoff=_CUTOFF)
    return folder / by_stem[close[0]] if close else None


def _stem(name: str) -> str:
    return Path(name).stem.lower()
