"""The file of `p3d predict --out`: an answer for each video, as CSV or as JSON lines.

Answers are appended one by one. After an interruption, the same command continues with the videos
that have no answer yet. Answers of another network or of other options are not mixed with these.
"""

from __future__ import annotations

import csv
import io
import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from p3d.errors import UserError
from p3d.system.csv_file import csv_line, plain_cell
from p3d.system.files import GOES_ON, check_place, write_text, writing

COLUMNS = ("path", "answer", "probability", "best", "frames", "seen", "error", "settings")

Record = Mapping[str, Any]
"""Values of the columns, those that a video lacks left out; JSON lines may have more."""


def check_answer_path(path: Path) -> None:
    """Check that a file of answers can have this path.

    Raises:
        UserError: It has another suffix, is a folder, or its folder does not exist.
    """
    if path.suffix.lower() not in (".csv", ".jsonl"):
        raise UserError(f"--out {path}: give a name that ends in .csv or .jsonl")
    check_place(path, "--out")


class AnswerFile:
    """A file of answers that grows.

    What cannot be used of an existing file is dropped: lines of videos that could not be read,
    which are tried again, and a last line that was not written completely.

    Args:
        path: The file; its suffix, `.csv` or `.jsonl`, decides on the format.
        settings: What the answers depend on, for people to read.

    Attributes:
        answered: Names of the videos that have an answer.

    Raises:
        UserError: The file cannot be read or written, has another suffix, is another kind of file,
            or holds answers of other settings.
    """

    def __init__(self, path: Path, settings: str) -> None:
        check_answer_path(path)
        self.path = path
        self._settings = settings
        self._is_csv = path.suffix.lower() == ".csv"
        earlier = self._read() if path.exists() else []
        self._records = {record["path"]: record for record in earlier if not record.get("error")}
        self.answered = frozenset(self._records)
        self._write_whole(self._records)

    def _read(self) -> list[Record]:
        try:
            # Not `read_text`, which changes the line breaks in names.
            text = self.path.read_bytes().decode("utf-8", "surrogateescape")
            records = _parse_csv(text) if self._is_csv else _parse_json_lines(text)
            settings = {record["settings"] for record in records if record["path"]}
        except OSError as error:
            raise UserError(f"--out {self.path}: cannot be read ({error.strerror})") from error
        except (ValueError, KeyError, TypeError, csv.Error) as error:
            raise UserError(
                f"--out {self.path}: holds something else than answers; choose another file"
            ) from error
        for other in settings - {self._settings}:
            raise UserError(
                f"--out {self.path}: its answers are by {other}, those of this command by "
                f"{self._settings}; choose another file, or delete this one"
            )
        return records

    def add(self, record: Record) -> None:
        """Append an answer.

        Raises:
            UserError: It cannot be written.
        """
        record = {**record, "settings": self._settings}
        self._records[record["path"]] = record
        with writing(self.path, GOES_ON), self.path.open("ab", buffering=0) as file:
            file.write(self._encode(record).encode("utf-8", "surrogateescape"))

    def sort(self, names: Sequence[str]) -> None:
        """Put the answers into the order of these names, after those of other videos."""
        order = [name for name in self._records if name not in set(names)]
        order += [name for name in names if name in self._records]
        if order != list(self._records):
            self._write_whole(order)

    def _write_whole(self, names: Sequence[str] | Mapping[str, Any]) -> None:
        header = csv_line(COLUMNS) if self._is_csv else ""
        lines = [self._encode(self._records[name]) for name in names]
        write_text(self.path, header + "".join(lines))

    def _encode(self, record: Record) -> str:
        if self._is_csv:
            return csv_line(record.get(name, "") for name in COLUMNS)
        text = json.dumps(record, ensure_ascii=False)
        # Bytes of file names that are not UTF-8 become JSON escapes, such as \udcff.
        return text.encode("utf-8", "backslashreplace").decode() + "\n"


def _parse_csv(text: str) -> list[Record]:
    rows = list(csv.reader(io.StringIO(text, newline="")))
    if rows and tuple(rows[0]) != COLUMNS:
        raise ValueError("another header")
    return [
        dict(zip(COLUMNS, map(plain_cell, row), strict=True))
        for row in (rows if text.endswith("\n") else rows[:-1])[1:]
        if len(row) == len(COLUMNS)
    ]


def _parse_json_lines(text: str) -> list[Record]:
    *lines, _ = text.split("\n")  # what follows the last line break is empty or incomplete
    return [json.loads(line) for line in lines]
