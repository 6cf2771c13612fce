"""Marks on the fields of option dataclasses, which the command line reads.

A mark belongs to the annotation of a field: `epochs: First[int] = 60`. A field without marks is an
option that only `--help-all` shows if the command has many.
"""

from __future__ import annotations

from dataclasses import dataclass
from enum import Enum
from typing import Annotated, TypeVar

T = TypeVar("T")


class Mark(Enum):
    """What is special about an option."""

    POSITIONAL = "positional"
    FIRST = "first"


@dataclass(frozen=True)
class Heading:
    """Heading in `--help-all` of this field and the fields below it, up to the next heading."""

    title: str


Positional = Annotated[T, Mark.POSITIONAL]
"""An option whose name may be omitted; of a nested dataclass, its required fields."""

First = Annotated[T, Mark.FIRST]
"""An option that the short help shows too; required options need no mark."""
