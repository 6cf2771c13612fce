"""Help pages of commands: the options that people use first, or all of them by subject."""

from __future__ import annotations

import re
import shutil
import textwrap
from collections.abc import Iterable, Sequence
from dataclasses import MISSING

from p3d.cli.options import Option

FEW = 14
"""A command with at most this many options shows all of them at once."""
_COLUMN = 24
"""Column where the help of an option starts."""
_ITEMS = re.compile(r"\n\s*(?=[\w, -]+: )")
"""Line break before a line about one choice, such as `lists: text files`."""
_UNBROKEN = "\xa0"
"""A space at which lines are not broken."""


def help_page(title: str, description: str, options: Sequence[Option], *, everything: bool) -> str:
    """Return the help of a command.

    Args:
        title: The command.
        description: What it does, in paragraphs.
        options: Its options.
        everything: Whether to show all options in groups, and not only the first ones.
    """
    own = [option for option in options if option.heading != "help"]
    shown = own if everything or len(own) <= FEW else [o for o in own if o.is_first]
    named = sorted(shown, key=_rank)
    lines = [_usage(title, own), ""]
    for paragraph in re.split(r"\n\s*\n", description.strip()):
        lines += [*_wrap(paragraph, 0), ""]
    for heading, group in _groups(named, everything=everything).items():
        lines += [f"{heading.capitalize()}:"] * everything
        lines += [line for option in group for line in _entry(option.usage, _text(option))]
        lines += [""] * everything
    lines += _entry("-h, --help", "Show this help.")
    if len(shown) < len(own):
        count = len(own) - len(shown)
        lines += _entry("--help-all", f"Show the other {count} options too, by subject.")
    return "\n".join(lines)


def _rank(option: Option) -> int:
    """Return the place of an option: those that must be given come first."""
    return 0 if option.is_positional else 1 if option.is_required else 2


def _groups(options: Iterable[Option], *, everything: bool) -> dict[str, list[Option]]:
    groups: dict[str, list[Option]] = {}
    for option in options:
        groups.setdefault(option.heading if everything else "", []).append(option)
    return groups


def _usage(title: str, options: Sequence[Option]) -> str:
    required = [o.usage for o in sorted(options, key=_rank) if o.is_positional or o.is_required]
    words = " ".join([title, *required, *["[OPTIONS]"] * (len(required) < len(options))])
    return "\n".join(_wrap(f"usage: {words}", 0, indent=len("usage: ")))


def _text(option: Option) -> str:
    """Return the help of an option with its default, before a list of its choices."""
    note = default_text(option)
    if option.is_required and not option.is_positional:
        note = "(required)"
    elif note:
        note = f"(default: {note})"
    sentences, *items = _ITEMS.split(option.text)
    return "\n".join([f"{sentences} {note.replace(' ', _UNBROKEN)}".strip(), *items])


def default_text(option: Option) -> str:
    """Return the default of an option as the help shows it, or "" for none, off and empty."""
    value = option.default
    if value is MISSING or value is None or value is False or value in ((), ""):
        return ""
    if value is True:
        return "on"
    return " ".join(map(str, value)) if isinstance(value, tuple) else str(value)


def _entry(usage: str, text: str) -> list[str]:
    """Return the lines of an option: its usage, and its help beside or below it."""
    sentences, *items = _ITEMS.split(text)
    lines = _wrap(sentences, _COLUMN, indent=_COLUMN)
    for item in items:
        lines += _wrap(item, _COLUMN + 2, indent=_COLUMN + 4)
    if len(usage) + 3 > _COLUMN:
        return [f"  {usage}", *lines]
    first = lines[0] if lines else ""
    return [f"  {usage}".ljust(_COLUMN) + first[_COLUMN:], *lines[1:]]


def _wrap(text: str, first: int, *, indent: int = 0) -> list[str]:
    width = min(shutil.get_terminal_size().columns, 100)
    lines = textwrap.wrap(
        re.sub("[ \n]+", " ", text).strip(" "),
        max(width, 60),
        initial_indent=" " * first,
        subsequent_indent=" " * indent,
        break_long_words=False,
        break_on_hyphens=False,
    )
    return [line.replace(_UNBROKEN, " ") for line in lines]
