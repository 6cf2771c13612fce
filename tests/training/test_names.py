"""Names of files and classes that are not UTF-8, and terminals that cannot print them."""

from __future__ import annotations

import csv
import io
import json
import os
import sys
from pathlib import Path

import pytest

from helpers.processes import train_flags
from helpers.runs import are_identical, log_lines, weights
from p3d.cli import main
from p3d.report.record import read_run
from p3d.run_folder import BEST_FILE, VALIDATION_FILE
from p3d.weights.loading import load_model

pytestmark = pytest.mark.usefixtures("narrow_networks")

CLASS = os.fsdecode("böse ".encode() + b"\xe9\xff")


@pytest.fixture(scope="module")
def data(sample: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return a data set whose folder, one class and its videos have names that are not UTF-8."""
    folder = tmp_path_factory.mktemp("names") / os.fsdecode(b"data \xe9")
    for split in ("train", "validation", "test"):
        for name, source in ((CLASS, "MoveLeft"), ("plain", "MoveRight")):
            target = folder / split / name
            try:
                target.mkdir(parents=True)
            except OSError:
                pytest.skip("this file system has only names in UTF-8")
            for video in (sample / "train" / source).iterdir():
                (target / os.fsdecode(b"\xe9 " + video.name.encode())).hardlink_to(video)
    return folder


@pytest.mark.parametrize("encoding", ["ascii", "latin-1", "utf-8"])
def test_run_with_names_that_are_not_utf8(
    encoding: str, data: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    out = tmp_path / os.fsdecode(b"run \xe9")
    terminal = io.TextIOWrapper(io.BytesIO(), encoding=encoding)
    monkeypatch.setattr(sys, "stdout", terminal)
    monkeypatch.setattr(sys, "stderr", terminal)
    flags = train_flags(data, out, epochs=1, batch_size=4)
    assert main([*flags, *(["--tensorboard"] if encoding == "utf-8" else [])]) == 0
    assert main([*flags, "--resume", "--workers", "1"]) == 0
    best = tmp_path / BEST_FILE  # safetensors reads only from paths in UTF-8
    best.write_bytes((out / BEST_FILE).read_bytes())
    assert main(["eval", "--weights", str(best), "--data", str(data), "--out", str(out),
                 "--clips", "1", "--workers", "0", "--device", "cpu"]) == 0  # fmt: skip
    video = next((data / "test" / CLASS).iterdir())
    predict = ["predict", str(video), "--weights", str(best), "--clips", "1"]
    assert main([*predict, "--device", "cpu"]) == 0
    terminal.flush()
    start = len(terminal.buffer.getvalue())  # type: ignore[attr-defined]
    assert main([*predict, "--device", "cpu", "--json"]) == 0
    terminal.flush()
    printed = terminal.buffer.getvalue()  # type: ignore[attr-defined]
    assert b"Traceback" not in printed
    assert json.loads(printed[start:].decode(encoding).splitlines()[-1])["video"] == str(video)
    assert load_model(best).class_names == tuple(sorted((CLASS, "plain")))
    assert len(log_lines(out, "epoch")) == 1
    record = read_run(out)
    assert record.data["data"] == str(data)
    assert record.predictions is not None
    assert CLASS in record.predictions.class_names
    assert all(Path(path).is_file() for path in record.predictions.paths)
    for name in (VALIDATION_FILE, "scores.csv"):
        text = (out / name).read_text(encoding="utf-8", errors="surrogateescape")
        assert CLASS in {row[1] for row in csv.reader(text.splitlines())}
    config = str(out / "config.json")
    again = str(tmp_path / "again")
    assert main(["train", "--config", config, "--out", again, "--workers", "0"]) == 0
    assert are_identical(weights(tmp_path / "again"), weights(out))
