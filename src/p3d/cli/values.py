"""How the words of a command line become the value of an option, by the type of its field."""

from __future__ import annotations

import math
import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from types import NoneType, UnionType
from typing import Any, Literal, Union, get_args, get_origin

from p3d.cli.suggest import did_you_mean

_ADDRESS = re.compile(r"[A-Za-z][A-Za-z0-9+.-]+://")


class InvalidValueError(ValueError):
    """A value that an option does not take; the message is the rule that it breaks."""


@dataclass(frozen=True)
class Kind:
    """The values of an option.

    Attributes:
        shape: The values as the help shows them, such as "PATH" or "{rgb,flow}".
        convert: Returns the value of some words; raises InvalidValueError.
        lowest: Smallest number of words.
        highest: Largest number of words; None if there is no limit. 0 for a switch.
        choices: The words to choose from, if they are known.
        is_path: Whether the words are files or folders.
    """

    shape: str
    convert: Callable[[Sequence[str]], Any]
    lowest: int = 1
    highest: int | None = 1
    choices: tuple[str, ...] = ()
    is_path: bool = False

    @property
    def is_switch(self) -> bool:
        """Whether the option is on or off and takes no value."""
        return self.highest == 0

    def takes(self, count: int) -> bool:
        """Return whether the option takes this number of words."""
        return self.lowest <= count and (self.highest is None or count <= self.highest)


def kind_of(hint: Any) -> Kind:
    """Return the kind of values of a type.

    Args:
        hint: bool, int, float, str, Path, a Literal, a tuple of these, or a union of all these.
    """
    origin, arguments = get_origin(hint), get_args(hint)
    if origin is Literal:
        return _choice(arguments)
    if origin in (Union, UnionType):
        return _union([kind_of(each) for each in arguments if each is not NoneType], arguments)
    if origin is tuple and arguments[-1] is Ellipsis:
        return _many(kind_of(arguments[0]))
    if origin is tuple:
        return _fixed([kind_of(each) for each in arguments])
    return _SCALARS[hint]


def _integer(words: Sequence[str]) -> int:
    try:
        return int(words[0])
    except ValueError:
        raise InvalidValueError("give an integer") from None


def _number(words: Sequence[str]) -> float:
    try:
        number = float(words[0])
    except ValueError:
        number = math.nan
    if not math.isfinite(number):
        raise InvalidValueError("give a finite number")
    return number


def _path(words: Sequence[str]) -> Path:
    if not words[0].strip():
        raise InvalidValueError("give the path of a file or folder")
    if _ADDRESS.match(words[0]):
        raise InvalidValueError("p3d reads files: download it first, then give its path")
    return Path(words[0])


_SCALARS: dict[Any, Kind] = {
    bool: Kind("", lambda _: True, lowest=0, highest=0),
    int: Kind("INT", _integer),
    float: Kind("NUMBER", _number),
    str: Kind("TEXT", lambda words: words[0]),
    Path: Kind("PATH", _path, is_path=True),
}


def _choice(values: tuple[Any, ...]) -> Kind:
    by_word = {str(value): value for value in values}

    def convert(words: Sequence[str]) -> Any:
        if words[0] not in by_word:
            raise InvalidValueError(
                f"{did_you_mean(words[0], by_word)}choose one of: {', '.join(by_word)}"
            )
        return by_word[words[0]]

    return Kind(f"{{{','.join(by_word)}}}", convert, choices=tuple(by_word))


def _many(element: Kind) -> Kind:
    def convert(words: Sequence[str]) -> Any:
        return tuple(element.convert([word]) for word in words)

    shape = f"{element.shape} ..."
    return replace(element, shape=shape, convert=convert, lowest=0, highest=None)


def _fixed(elements: list[Kind]) -> Kind:
    def convert(words: Sequence[str]) -> Any:
        return tuple(each.convert([word]) for each, word in zip(elements, words, strict=True))

    shape, count = " ".join(each.shape for each in elements), len(elements)
    return replace(elements[0], shape=shape, convert=convert, lowest=count, highest=count)


def _union(members: list[Kind], types: tuple[Any, ...]) -> Kind:
    """Return the kind of a union: the first member that takes the words, or None for "None"."""

    def convert(words: Sequence[str]) -> Any:
        if NoneType in types and list(words) == ["None"]:
            return None
        rules: dict[str, None] = {}
        for member in members:
            if member.takes(len(words)):
                try:
                    return member.convert(words)
                except InvalidValueError as error:
                    rules |= {str(error): None}
        # Choices come last in most unions, and their rule may begin with "did you mean".
        message = ", or ".join(reversed(rules))
        raise InvalidValueError(message or f"give {' or '.join(each.shape for each in members)}")

    highest = [member.highest for member in members]
    return Kind(
        "|".join(member.shape for member in members),
        convert,
        lowest=min(member.lowest for member in members),
        highest=None if None in highest else max(filter(None, highest)),
        choices=tuple(choice for member in members for choice in member.choices),
        is_path=any(member.is_path for member in members),
    )
