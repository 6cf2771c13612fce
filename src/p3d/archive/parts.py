"""The parts of an archive's results: files of records, each written whole or not at all.

The parts are the only state: a video is done if one of them has its record.
"""

from __future__ import annotations

import importlib.util
import json
import re
from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, Literal

from p3d.errors import UserError
from p3d.system.extras import load_extra
from p3d.system.files import replacing

Record = dict[str, Any]
"""What is known of a video: `path`, `error` (None if it was read), and values of the columns."""

Column = Literal["text", "integer", "number", "texts", "numbers"]
Format = Literal["parquet", "jsonl"]

_NAME = re.compile(r"part-(\d{6,})\.(parquet|jsonl)")


def usual_format() -> Format:
    """Return "parquet" if pyarrow is installed, else "jsonl"."""
    return "parquet" if importlib.util.find_spec("pyarrow") else "jsonl"


class Parts:
    """The parts in a folder.

    Args:
        folder: The folder; it must exist.
        kind: Format of new parts.
        columns: Columns besides `path` and `error`, with the types of their values.

    Raises:
        UserError: Parquet is asked for and pyarrow is not installed.
    """

    def __init__(self, folder: Path, kind: Format, columns: Mapping[str, Column]) -> None:
        self.folder, self._kind = folder, kind
        self._columns: dict[str, Column] = {"path": "text", **columns, "error": "text"}
        if kind == "parquet":
            load_extra("pyarrow", "archive")

    @property
    def files(self) -> list[Path]:
        """The parts, in the order of their numbers."""
        return sorted(
            (path for path in self.folder.iterdir() if _NAME.fullmatch(path.name)), key=_number
        )

    def read(self, path: Path) -> list[Record]:
        """Return the records of a part.

        Raises:
            UserError: It is damaged.
        """
        try:
            return _read_parquet(path) if path.suffix == ".parquet" else _read_lines(path)
        except OSError as error:
            raise UserError(f"{path}: cannot be read ({error.strerror or error})") from error
        except (ValueError, KeyError, TypeError) as error:
            raise UserError(
                f"{path}: is damaged; delete it, and the same command does its videos again"
            ) from error

    def records(self) -> Iterator[Record]:
        """Yield the records of all parts."""
        for path in self.files:
            yield from self.read(path)

    def write(self, records: Sequence[Record]) -> Path:
        """Write a new part.

        Raises:
            UserError: It cannot be written.
        """
        number = 1 + max(map(_number, self.files), default=0)
        path = self.folder / f"part-{number:06d}.{self._kind}"
        self._write(path, records)
        return path

    def forget_bad(self) -> int:
        """Remove the records of videos that could not be read; return how many there were.

        Raises:
            UserError: A part cannot be read or written.
        """
        count = 0
        for path in self.files:
            records = self.read(path)
            kept = [record for record in records if record["error"] is None]
            count += len(records) - len(kept)
            if not kept:
                path.unlink()
            elif len(kept) < len(records):
                self._write(path, kept)
        return count

    def _write(self, path: Path, records: Sequence[Record]) -> None:
        write = self._write_parquet if path.suffix == ".parquet" else _write_lines
        try:
            with replacing(path) as temporary:
                write(temporary, records)
        except OSError as error:
            raise UserError(
                f"{path}: cannot be written ({error.strerror or error}); mend that, then the same "
                "command goes on"
            ) from error

    def _write_parquet(self, path: Path, records: Sequence[Record]) -> None:
        arrow = load_extra("pyarrow", "archive")
        parquet = load_extra("pyarrow.parquet", "archive")
        types = {
            "text": arrow.string(),
            "integer": arrow.int64(),
            "number": arrow.float64(),
            "texts": arrow.list_(arrow.string()),
            "numbers": arrow.list_(arrow.float32()),
        }
        schema = arrow.schema([(name, types[kind]) for name, kind in self._columns.items()])
        rows = [
            {name: _encodable(record.get(name)) for name in self._columns} for record in records
        ]
        parquet.write_table(arrow.Table.from_pylist(rows, schema=schema), path)


def _number(path: Path) -> int:
    found = _NAME.fullmatch(path.name)
    assert found is not None, "the names of parts match"
    return int(found[1])


def _encodable(value: Any) -> Any:
    """Return a value that Parquet holds: bytes of names that are not UTF-8 become `\\udcff`."""
    return value.encode("utf-8", "backslashreplace").decode() if isinstance(value, str) else value


def _read_parquet(path: Path) -> list[Record]:
    parquet = load_extra("pyarrow.parquet", "archive")
    try:
        rows: list[Record] = parquet.read_table(path).to_pylist()
    except OSError as error:  # of Arrow, without an errno, if the file is damaged
        if error.errno is None:
            raise ValueError(str(error)) from error
        raise
    return [_checked(row) for row in rows]


def _read_lines(path: Path) -> list[Record]:
    text = path.read_text(encoding="utf-8")
    if not text.endswith("\n"):
        raise ValueError("incomplete")
    return [_checked(json.loads(line)) for line in text.splitlines()]


def _write_lines(path: Path, records: Iterable[Record]) -> None:
    with path.open("w", encoding="utf-8", newline="\n") as file:
        for record in records:
            file.write(json.dumps(record) + "\n")


def _checked(record: Any) -> Record:
    if not isinstance(record["path"], str) or not isinstance(record["error"], str | None):
        raise TypeError("no record")
    row: Record = record
    return row
