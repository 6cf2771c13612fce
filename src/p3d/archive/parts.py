"""Parts of results: Parquet files, or JSON lines where pyarrow is not installed.

Each part states the settings that its rows were computed with: in the metadata `p3d` of a Parquet
file, in the first line of JSON lines.
"""

from __future__ import annotations

import importlib.util
import json
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any, Literal, NamedTuple, TypeAlias

import numpy as np

from p3d.errors import UserError
from p3d.system.extras import load_extra
from p3d.system.files import GOES_ON, reason_of, replacing, writing

FORMAT, VERSION = "p3d parts", 1

PartFormat = Literal["parquet", "jsonl"]

Row: TypeAlias = dict[str, Any]
"""Values of a video by column: text, numbers, lists of text, and float32 arrays of one axis."""


class Part(NamedTuple):
    """A part that was read.

    Attributes:
        settings: What the rows depend on.
        rows: A row for each video; only the paths if no more was asked for.
    """

    settings: dict[str, Any]
    rows: list[Row]


def default_format() -> PartFormat:
    """Return "parquet" if pyarrow is installed, else "jsonl"."""
    return "parquet" if importlib.util.find_spec("pyarrow") else "jsonl"


def part_files(folder: Path) -> list[Path]:
    """Return the parts in a folder, in the order they were written."""
    found = [*folder.glob("part-*.parquet"), *folder.glob("part-*.jsonl")]
    return sorted(found, key=lambda path: path.stem)


def write_part(path: Path, settings: Mapping[str, Any], rows: Sequence[Row]) -> None:
    """Write a part completely or not at all; the suffix decides on the format.

    Raises:
        UserError: It cannot be written.
    """
    header = {"format": FORMAT, "version": VERSION, "settings": settings}
    with writing(path, GOES_ON), replacing(path) as temporary:
        if path.suffix == ".parquet":
            _write_parquet(temporary, header, rows)
        else:
            lines = [{"p3d": header}, *map(_plain, rows)]
            text = "".join(f"{json.dumps(line, ensure_ascii=False)}\n" for line in lines)
            temporary.write_text(text, encoding="utf-8", newline="\n")


def read_part(path: Path, *, only_paths: bool = False) -> Part:
    """Read a part.

    Args:
        path: The file.
        only_paths: Leave out all other columns.

    Raises:
        UserError: It cannot be read, or is no part of this version.
    """
    try:
        read = _read_parquet if path.suffix == ".parquet" else _read_lines
        header, rows = read(path, only_paths)
        if (header["format"], header["version"]) != (FORMAT, VERSION):
            raise ValueError("of another version of p3d")
        return Part(dict(header["settings"]), rows)
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise UserError(
            f"{path}: is no part that p3d can read ({reason_of(error)}); move it away, then its "
            "videos are done again"
        ) from error


def _write_parquet(path: Path, header: Mapping[str, Any], rows: Sequence[Row]) -> None:
    pyarrow, parquet = load_extra("pyarrow", "archive"), load_extra("pyarrow.parquet", "archive")
    table = pyarrow.table({name: [row[name] for row in rows] for name in rows[0]})
    table = table.replace_schema_metadata({"p3d": json.dumps(header)})
    parquet.write_table(table, path)


def _read_parquet(path: Path, only_paths: bool) -> tuple[Any, list[Row]]:
    parquet = load_extra("pyarrow.parquet", "archive")
    # Not through a memory map or the dataset reader, which look at the names of the folders.
    with parquet.ParquetFile(path) as file:
        header = json.loads(file.schema_arrow.metadata[b"p3d"])
        rows = file.read(columns=["path"] if only_paths else None).to_pylist()
    return header, rows


def _read_lines(path: Path, only_paths: bool) -> tuple[Any, list[Row]]:
    first, *lines = path.read_text(encoding="utf-8").rstrip("\n").split("\n")
    rows: Iterable[Row] = map(json.loads, lines)
    if only_paths:
        rows = ({"path": row["path"]} for row in rows)
    return json.loads(first)["p3d"], list(rows)


def _plain(row: Row) -> Row:
    """Return a row with lists in place of arrays; JSON has every float32 exactly."""
    return {
        name: value.tolist() if isinstance(value, np.ndarray) else value
        for name, value in row.items()
    }
