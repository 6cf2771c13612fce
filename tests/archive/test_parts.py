"""Parts are read as they were written, and damaged ones are refused."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from p3d.archive.parts import Column, Format, Parts, Record
from p3d.errors import UserError

COLUMNS: dict[str, Column] = {"frames": "integer", "classes": "texts", "scores": "numbers"}
FORMATS: list[Format] = ["parquet", "jsonl"]

RECORDS = st.lists(
    st.fixed_dictionaries(
        {
            "path": st.text(min_size=1),
            "error": st.none() | st.text(),
            "frames": st.none() | st.integers(0, 2**40),
            "classes": st.none() | st.lists(st.text()),
            "scores": st.none() | st.lists(st.floats(width=32, allow_nan=False)),
        }
    ),
    min_size=1,
)


def record(path: str, error: str | None = None) -> Record:
    return {"path": path, "error": error, "frames": 3, "classes": ["a"], "scores": [0.5]}


@pytest.mark.parametrize("kind", FORMATS)
@settings(
    max_examples=30, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture]
)
@given(records=RECORDS)
def test_records_come_back(kind: Format, records: list[Record], tmp_path: Path) -> None:
    if kind == "parquet":
        pytest.importorskip("pyarrow")
    parts = Parts(tmp_path, kind, COLUMNS)
    path = parts.write(records)
    assert parts.read(path) == records
    path.unlink()


@pytest.mark.parametrize("kind", FORMATS)
def test_parts_are_numbered_and_bad_videos_forgotten(kind: Format, tmp_path: Path) -> None:
    if kind == "parquet":
        pytest.importorskip("pyarrow")
    parts = Parts(tmp_path, kind, COLUMNS)
    for number in range(3):
        name = parts.write([record(f"{number}"), record(f"{number}-bad", "broken")]).name
        assert name == f"part-{number + 1:06d}.{kind}"
    parts.write([record("bad", "broken")])
    (tmp_path / f".part-000009.{kind}.tmp").touch()
    assert [r["path"] for r in parts.records()][-1] == "bad"
    assert parts.forget_bad() == 4
    assert [r["path"] for r in parts.records()] == ["0", "1", "2"]
    assert parts.forget_bad() == 0


@pytest.mark.parametrize("kind", FORMATS)
def test_damaged_parts(kind: Format, tmp_path: Path) -> None:
    if kind == "parquet":
        pytest.importorskip("pyarrow")
    parts = Parts(tmp_path, kind, COLUMNS)
    path = parts.write([record("a"), record("b")])
    whole = path.read_bytes()
    for damaged in (whole[:-3], b"", whole[: len(whole) // 3], b"[]\n", b'{"path": 3}\n'):
        path.write_bytes(damaged)
        with pytest.raises(UserError, match="is damaged; delete it"):
            parts.read(path)


def test_names_that_are_not_utf8(tmp_path: Path) -> None:
    for kind in FORMATS:
        parts = Parts(tmp_path, kind, COLUMNS)
        values: Any = parts.read(parts.write([record("caf\udce9")]))[0]["path"]
        assert values in ("caf\udce9", "caf\\udce9")
