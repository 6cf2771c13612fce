"""Read the words of a command line.

argparse is not used: it takes positional arguments only in one place, `--lr -1e-3` only in newer
Pythons, and its messages name neither the rule nor the remedy.
"""

from __future__ import annotations

import os
import re
from collections import deque
from collections.abc import Callable, Sequence
from typing import Any

from p3d.cli.options import Option
from p3d.cli.suggest import did_you_mean
from p3d.errors import UserError

_FLAG = re.compile(r"--?[A-Za-z]|--$")
_DASHES = "-\u2010\u2011\u2012\u2013\u2014\u2212"
"""Hyphens, and what word processors make of two of them."""


def read_words(
    command: str,
    options: Sequence[Option],
    words: Sequence[str],
    explain: Callable[[str], str] = lambda _: "",
) -> dict[str, Any]:
    """Return the values of the options that are given, by flag.

    Options take their values as `--name value` or `--name=value`; underscores in names are
    hyphens. The last of several wins. Positional words may stand anywhere, and all words after
    `--` are positional.

    Args:
        command: The command, for messages.
        options: Its options.
        words: The words after the command.
        explain: Returns what to say about an option that the command lacks, or "".

    Raises:
        UserError: A word is wrong.
    """
    by_flag = {option.flag: option for option in options}
    switches = {f"--no-{flag[2:]}": flag for flag in by_flag if by_flag[flag].kind.is_switch}
    given: dict[str, Any] = {}
    loose: list[str] = []
    queue = deque(words)
    while queue:
        word = queue.popleft()
        if word == "--":
            loose += queue
            break
        if not _FLAG.match(word):
            loose.append(word)
            continue
        flag, (_, equals, text) = _flag_of(word), word.partition("=")
        option = by_flag.get(switches.get(flag, flag))
        if option is None:
            raise UserError(_unknown(command, word, [*by_flag, *switches], explain))
        if not option.kind.is_switch:
            given[option.flag] = option.value([text] if equals else _take(queue, option))
        elif equals:
            raise UserError(f"{flag} takes no value; give {option.flag} or --no-{option.flag[2:]}")
        else:
            given[option.flag] = flag not in switches
    return given | _place(command, options, given, loose)


def _flag_of(word: str) -> str:
    """Return the flag that a word names, without its value."""
    flag = word.partition("=")[0]
    return "--help" if flag == "-h" else flag.replace("_", "-")


def _take(queue: deque[str], option: Option) -> list[str]:
    """Remove the values of an option from the words that follow it."""
    taken: list[str] = []
    while queue and len(taken) != option.kind.highest and not _FLAG.match(queue[0]):
        taken.append(queue.popleft())
    return taken


def _place(
    command: str, options: Sequence[Option], given: dict[str, Any], words: list[str]
) -> dict[str, Any]:
    """Return the values of the positional options."""
    placed = {}
    for option in options:
        if words and option.is_positional and option.flag not in given:
            count = len(words) if option.kind.highest is None else option.kind.highest
            placed[option.flag] = option.value(words[:count])
            words = words[count:]
    if words:
        raise UserError(_superfluous(command, options, words[0]))
    return placed


def _unknown(command: str, word: str, flags: Sequence[str], explain: Callable[[str], str]) -> str:
    """Return what to say about an option that a command lacks."""
    if os.path.exists(word):  # noqa: PTH110 (long names)
        return f"{command} has no option {word}; for the file, write ./{word}"
    flag = _flag_of(word)
    name = flag if flag.startswith("--") or len(flag) == 2 else f"-{flag}"
    hint = did_you_mean(name, flags).rstrip() or explain(flag)
    return f"{command} has no option {flag}; {hint or f'see {command} --help-all'}"


def _superfluous(command: str, options: Sequence[Option], word: str) -> str:
    flags = [option.flag for option in options]
    name = f"--{word.lstrip(_DASHES)}"
    if name.partition("=")[0] in flags:
        return f"{command} does not take {word!r}; did you mean {name}?"
    paths = [option for option in options if option.kind.is_path and not option.is_positional]
    paths.sort(key=lambda option: not option.is_required)
    example = paths[0].flag if paths else "--help"
    return f"{command} does not take {word!r} without an option before it, such as {example}"


def require(
    command: str, options: Sequence[Option], given: dict[str, Any], instead: Sequence[str]
) -> None:
    """Check that all required options are given.

    Args:
        command: The command, for messages.
        options: Its options.
        given: The values given, by flag.
        instead: Options that stand for those that are required.

    Raises:
        UserError: Some are missing.
    """
    missing = [o.usage for o in options if o.is_required and o.flag not in given]
    if missing:
        needed = " or ".join([" and ".join(missing), *(f"{flag} PATH" for flag in instead)])
        raise UserError(f"{command} needs {needed}; see {command} --help")
