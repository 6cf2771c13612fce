"""The options of a command, collected from its dataclass.

A field is an option: its name gives the flag, its type the values, its default the default, and the
docstring below it the help. Fields of nested dataclasses are options without a prefix. The marks of
`p3d.system.markers` say the rest.
"""

from __future__ import annotations

import ast
import inspect
import sys
from collections.abc import Iterator, Mapping
from dataclasses import MISSING, dataclass, fields, is_dataclass
from functools import cache
from itertools import pairwise
from typing import Annotated, Any, get_args, get_origin, get_type_hints

from p3d.cli.values import InvalidValueError, Kind, kind_of
from p3d.errors import UserError
from p3d.system.markers import Heading, Mark


@dataclass(frozen=True)
class Option:
    """An option of a command.

    Attributes:
        flag: Its name, such as "--batch-size".
        kind: The values that it takes.
        text: Help, without the default.
        default: Value if it is not given; `dataclasses.MISSING` if it must be given.
        heading: Its group in `--help-all`.
        is_first: Whether the short help shows it.
        is_positional: Whether its flag may be omitted.
    """

    flag: str
    kind: Kind
    text: str
    default: Any
    heading: str = ""
    is_first: bool = True
    is_positional: bool = False

    @property
    def label(self) -> str:
        """Its name in messages and help: VIDEOS for a positional option, else the flag."""
        return self.flag[2:].upper().replace("-", "_") if self.is_positional else self.flag

    @property
    def usage(self) -> str:
        """Its name with the values that it takes."""
        if self.is_positional:
            return self.label + " ..." * (self.kind.highest is None)
        twin = f", --no-{self.flag[2:]}" if self.default is True else ""
        return f"{self.flag} {self.kind.shape}".strip() + twin

    @property
    def is_required(self) -> bool:
        """Whether it must be given."""
        return self.default is MISSING

    def value(self, words: list[str]) -> Any:
        """Return the value of the words after the flag.

        Raises:
            UserError: The option does not take them.
        """
        if not self.kind.takes(len(words)):
            wanted = self.kind.shape if self.kind.lowest <= 1 else f"{self.kind.lowest} values"
            got = f", got {' '.join(words)}" if words else ""
            raise UserError(f"{self.label} needs {wanted}{got}")
        try:
            return self.kind.convert(words)
        except InvalidValueError as error:
            raise UserError(f"{self.label} is {' '.join(words)!r}; {error}") from None


def flag_of(name: str) -> str:
    """Return the flag of a field; a last underscore, as in `class_`, avoids a word of Python."""
    return f"--{name.rstrip('_').replace('_', '-')}"


def options_of(
    options_type: type, defaults: Mapping[str, Any], heading: str = "options"
) -> list[Option]:
    """Return the options of a dataclass: its own, then those of nested dataclasses.

    Args:
        options_type: The dataclass.
        defaults: Values of fields that replace their defaults.
        heading: Heading of the fields above the first one that is marked with another.
    """
    return list(_collect(options_type, defaults, heading, is_positional=False))


def _collect(
    options_type: type, defaults: Mapping[str, Any], heading: str, *, is_positional: bool
) -> Iterator[Option]:
    hints, texts = get_type_hints(options_type, include_extras=True), field_texts(options_type)
    nested: list[tuple[Any, Mapping[str, Any], str, bool]] = []
    for item in fields(options_type):
        hint, marks = _split(hints[item.name])
        heading = next((mark.title for mark in marks if isinstance(mark, Heading)), heading)
        default = defaults.get(item.name, _default(item))
        positional = Mark.POSITIONAL in marks
        if is_dataclass(hint):
            values = {} if default is MISSING else vars(default)
            inner = hint if default is MISSING else type(default)
            nested.append((inner, values, item.name, positional))
            continue
        kind = kind_of(hint)
        positional = positional or (is_positional and default is MISSING)
        if positional and default is MISSING and kind.lowest == 0:
            default = ()
        yield Option(
            flag_of(item.name),
            kind,
            texts.get(item.name, ""),
            default,
            heading,
            Mark.FIRST in marks or positional or default is MISSING,
            positional,
        )
    for inner, values, name, positional in nested:
        yield from _collect(inner, values, name, is_positional=positional)


def build(options_type: Any, values: Mapping[str, Any], defaults: Mapping[str, Any]) -> Any:
    """Return the dataclass with these values; nested dataclasses are built likewise.

    Args:
        options_type: The dataclass.
        values: Values of all options, by flag.
        defaults: Values of fields that replace their defaults; those of nested dataclasses decide
            on the subclass.

    Raises:
        UserError: The dataclass refuses a value.
    """
    hints = get_type_hints(options_type, include_extras=True)
    built = {}
    for item in fields(options_type):
        hint, _ = _split(hints[item.name])
        if is_dataclass(hint):
            inner = type(defaults[item.name]) if item.name in defaults else hint
            built[item.name] = build(inner, values, {})
        else:
            built[item.name] = values[flag_of(item.name)]
    return options_type(**built)


def _split(hint: Any) -> tuple[Any, tuple[Any, ...]]:
    """Return a type without its marks, and the marks."""
    if get_origin(hint) is Annotated:
        inner, *marks = get_args(hint)
        return inner, tuple(marks)
    return hint, ()


def _default(item: Any) -> Any:
    return item.default if item.default_factory is MISSING else item.default_factory()


@cache
def field_texts(options_type: type) -> dict[str, str]:
    """Return the docstrings below the fields of a dataclass."""
    texts: dict[str, str] = {}
    for each in reversed(options_type.__mro__[:-1]):
        tree = ast.parse(inspect.getsource(sys.modules[each.__module__]))
        bodies = {node.name: node.body for node in tree.body if isinstance(node, ast.ClassDef)}
        texts |= docstrings(bodies.get(each.__name__, []))
    return texts


def docstrings(body: list[ast.stmt]) -> dict[str, str]:
    """Return the docstring below each assignment, by the assigned name."""
    texts = {}
    for statement, below in pairwise(body):
        match statement, below:
            case (
                ast.AnnAssign(target=ast.Name(id=name)) | ast.Assign(targets=[ast.Name(id=name)]),
                ast.Expr(value=ast.Constant(value=str(text))),
            ):
                texts[name] = inspect.cleandoc(text)
    return texts
