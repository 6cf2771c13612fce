"""The file of answers: what it keeps after an interruption, and what it refuses."""

from __future__ import annotations

import csv
import json
import os
from pathlib import Path
from typing import Any

import pytest

from p3d.errors import UserError
from p3d.inference.answers import AnswerFile

ODD = os.fsdecode(b'-a "\xff\r,\n.avi')


def answer(name: str) -> dict[str, Any]:
    return {"path": name, "answer": "walk", "probability": 0.5, "frames": 9, "seen": 1.0}


def read(path: Path) -> dict[str, str]:
    """Return the answer, or error, of each video in a file."""
    if path.suffix == ".jsonl":
        rows = [json.loads(line) for line in path.read_text().splitlines()]
    else:
        with path.open(newline="", encoding="utf-8", errors="surrogateescape") as file:
            rows = list(csv.DictReader(file))
    return {row["path"].lstrip("'"): row.get("error") or row["answer"] for row in rows}


@pytest.mark.parametrize("suffix", ["csv", "jsonl"])
def test_answers_are_continued_after_an_interruption(suffix: str, tmp_path: Path) -> None:
    path = tmp_path / f"answers.{suffix}"
    file = AnswerFile(path, "net")
    file.add(answer("b"))
    file.add({"path": "bad", "error": "broken"})
    file.add(answer(ODD))
    assert read(path) == {"b": "walk", "bad": "broken", ODD: "walk"}
    with path.open("ab") as stream:
        stream.write(b'cut,"wal' if suffix == "csv" else b'{"path": "cu')

    file = AnswerFile(path, "net")
    assert file.answered == {"b", ODD}
    assert read(path) == {"b": "walk", ODD: "walk"}
    file.add(answer("bad"))
    file.sort(["bad", ODD])
    assert list(read(path)) == ["b", "bad", ODD], "videos that are not named stay"


@pytest.mark.parametrize("suffix", ["csv", "jsonl"])
def test_answers_of_another_network_are_not_mixed(suffix: str, tmp_path: Path) -> None:
    path = tmp_path / f"answers.{suffix}"
    AnswerFile(path, "net a").add(answer("b"))
    before = path.read_bytes()
    with pytest.raises(UserError, match="its answers are by net a, those of this command by net b"):
        AnswerFile(path, "net b")
    assert path.read_bytes() == before


def test_other_files_are_not_overwritten(tmp_path: Path) -> None:
    for name, text in (
        ("a.csv", "path,class\nx,y\n"),
        ("a.jsonl", '{"x": 1}\n'),
        ("b.jsonl", "3\n"),
    ):
        (tmp_path / name).write_text(text)
        with pytest.raises(UserError, match="holds something else than answers"):
            AnswerFile(tmp_path / name, "net")
        assert (tmp_path / name).read_text() == text
    with pytest.raises(UserError, match=r"ends in \.csv or \.jsonl"):
        AnswerFile(tmp_path / "a.txt", "net")
    with pytest.raises(UserError, match="its folder does not exist"):
        AnswerFile(tmp_path / "no" / "a.csv", "net")
