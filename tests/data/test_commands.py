"""What the commands say about a data set: classes, divisions, and what is left out."""

from __future__ import annotations

from pathlib import Path

import pytest

from helpers.videos import write_video
from p3d.cli import main

pytestmark = pytest.mark.usefixtures("narrow_networks")

PATTERN = ["--class-pattern", "_([a-z]+)$"]
RULE = ["--group-pattern", "^([^_]+)_", "--test-groups", "ben"]
SMALL = [
    *("--recipe", "sample", "--epochs", "1", "--batch-size", "4", "--crop", "16"),
    *("--resize", "20", "20", "--num-frames", "2", "--workers", "0", "--device", "cpu"),
]


@pytest.fixture(scope="module")
def flat(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Videos in one folder, a broken one, and other files."""
    root = tmp_path_factory.mktemp("videos")
    for index, name in enumerate(("ann_run", "ann_walk", "ben_run", "ben_walk")):
        write_video(root / f"{name}.avi", 5 + index, size=(32, 48))
    (root / "cy_run.avi").write_bytes(b"no video")
    for name in ("intro.avi", "ann_run.srt", "cover.jpg"):
        (root / name).touch()
    return root


def test_training_evaluation_and_resuming_with_classes_in_names(
    flat: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    run = ["train", "--data", str(flat), *RULE, *SMALL, "--out", str(tmp_path)]
    assert main([*run, *PATTERN, "--clips-per-video", "3"]) == 0
    remarks = [
        "CLASSES by --class-pattern: 2, run, walk",
        "IGNORED: 1 video without a class by --class-pattern: intro.avi",
        "IGNORED: 2 files that are not videos: ann_run.srt, cover.jpg",
    ]
    out = capsys.readouterr().out
    assert [line for line in out.splitlines() if line in remarks] == remarks
    assert "| 1 video SKIPPED" in out  # it has three clips

    assert main([*run, "--class-pattern", "_([a-z])[a-z]*$", "--resume"]) == 2
    assert "has --class-pattern " in capsys.readouterr().err

    weights = ["--weights", str(tmp_path / "best.safetensors"), "--clips", "1", "--workers", "0"]
    evaluate = ["eval", "--data", str(flat), *PATTERN, *RULE, *weights]
    assert main(evaluate) == 0
    lines = capsys.readouterr().out.splitlines()
    assert [line for line in lines if line in remarks] == remarks

    assert main([*evaluate, "--split", "validation"]) == 2
    error = capsys.readouterr().err
    assert "--split validation: " in error
    assert "has no validation videos; give another --split, or divide some off" in error


@pytest.mark.parametrize(
    "command",
    [
        "check {data}",
        "frames --data {data} --out {out}",
        "flow --data {data} --out {out}",
        "sample --out {out}",
        "ucf101 --source {data} --out {out}",
    ],
)
def test_a_negative_number_of_workers(
    command: str, flat: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out = tmp_path / "out"
    words = command.format(data=flat, out=out).split()
    assert main(["prepare", *words, "--workers", "-1"]) == 2
    assert capsys.readouterr().err == "p3d: error: --workers -1: must be at least 0\n"
    assert not out.exists()
