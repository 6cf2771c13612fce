"""Timing training steps on random clips."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from p3d.cli import main

pytestmark = pytest.mark.usefixtures("narrow_networks")

TINY = "--recipe scratch --batch-size 2 --num-frames 4 --crop 32 --steps 1 --device cpu"


def bench(*flags: str) -> int:
    return main(["bench", "train", *TINY.split(), *flags])


def test_reports_speed_and_memory(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert bench("--clips-per-step", "4", "--out", str(tmp_path / "figures.json")) == 0
    output = capsys.readouterr().out
    assert "p3d63, clips of 4x32x32, fp32, 1 x cpu" in output
    result = json.loads((tmp_path / "figures.json").read_text())
    figures = result["figures"]
    assert figures["clips_per_step"] == 4
    assert figures["clips_per_second"] == pytest.approx(4 / figures["seconds_per_step"])
    assert len(result["seconds"]) == 1
    assert figures["peak_memory_bytes"] > 100e6


def test_runs_with_activation_checkpointing_and_bf16(capsys: pytest.CaptureFixture[str]) -> None:
    assert bench("--checkpoint-activations", "--precision", "bf16", "--modality", "flow") == 0
    assert "bf16" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("flags", "message"),
    [
        (("--steps", "0"), "--steps is 0; give 1 or more"),
        (("--precision", "tf32"), "--precision tf32 is for cuda and mlu"),
        (("--device", "cuda"), "sees no CUDA device"),
    ],
)
def test_invalid_options_are_reported_in_one_line(
    flags: tuple[str, ...], message: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert bench(*flags) == 2
    error = capsys.readouterr().err
    assert message in error
    assert error.count("\n") == 1
