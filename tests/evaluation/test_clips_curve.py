"""Accuracy against the number of clips, from kept logits."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch
from torch import Tensor

import p3d
from p3d.cli import main
from p3d.data.layouts import read_dataset
from p3d.evaluation.clips_curve import clips_curve
from p3d.inference.settled import clips_used, halving_order
from p3d.scores.score_file import read_score_file

pytestmark = pytest.mark.usefixtures("narrow_networks")


def top1_of(logits: Tensor, labels: Tensor, numbers: list[list[int]]) -> float:
    """Return the accuracy with some clips of each video, one video at a time."""
    right = [
        int(video[clips].double().softmax(-1).mean(0).argmax()) == label
        for video, clips, label in zip(logits, numbers, labels.tolist(), strict=True)
    ]
    return sum(right) / len(right)


@pytest.mark.parametrize(("num_clips", "counts"), [(20, [1, 2, 5, 10, 20]), (7, [1, 2, 5, 7])])
def test_points_are_the_accuracy_of_subsets(num_clips: int, counts: list[int]) -> None:
    generator = torch.Generator().manual_seed(num_clips)
    logits = 2 * torch.randn(50, num_clips, 3, generator=generator)
    labels = torch.randint(0, 3, (50,), generator=generator)
    *points, auto = clips_curve(logits, labels, 0.9)
    assert [point.clips for point in points] == counts
    order = list(halving_order(num_clips))
    for point in points:
        assert point.mean_clips == point.clips
        subsets = [order[: int(point.mean_clips)]] * 50
        assert point.top1 == pytest.approx(top1_of(logits, labels, subsets))
    used = [clips_used(video[order], 0.9) or 0 for video in logits]
    assert auto.clips == "auto"
    assert auto.mean_clips == pytest.approx(sum(used) / 50)
    assert auto.top1 == pytest.approx(top1_of(logits, labels, [order[:n] for n in used]))


@pytest.fixture(scope="module")
def weights(sample: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return an untrained network for the classes of the sample set, which two clips settle."""
    model = p3d.create_model("p3d63", num_classes=8)
    model.preprocessing = p3d.Preprocessing(num_frames=2, resize=(16, 16), crop=16)
    model.class_names = read_dataset(sample, "test").class_names
    model.fc.bias.data[3] = 9
    path = tmp_path_factory.mktemp("weights") / "w.safetensors"
    p3d.save_model(model, path)
    return path


def evaluate(sample: Path, weights: Path, out: Path, *words: str) -> int:
    fixed = ("--data", sample, "--weights", weights, "--out", out, "--device", "cpu")
    return main(["eval", *map(str, fixed), *words])


def test_command_prints_and_writes_the_curve(
    sample: Path, weights: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert evaluate(sample, weights, tmp_path, "--clips", "4", "--clips-curve") == 0
    lines = capsys.readouterr().out.splitlines()
    start = lines.index("clips  mean  top-1")
    names = [line.split()[0] for line in lines[start + 2 : start + 7]]
    assert names == ["1", "2", "4", "auto", "auto:"]
    metrics = json.loads((tmp_path / "metrics.json").read_text())
    assert [point["clips"] for point in metrics["clips_curve"]] == [1, 2, 4, "auto"]
    assert metrics["clips_curve"][2]["top1"] == metrics["top1"]
    assert metrics["settled"] == 0.99


def test_auto_takes_few_clips_where_the_answer_is_clear(
    sample: Path, weights: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert evaluate(sample, weights, tmp_path, "--clips", "auto") == 0
    assert "clips: 2.0 of 20 on average, settled at 0.99 (default" in capsys.readouterr().out
    assert json.loads((tmp_path / "metrics.json").read_text())["mean_clips"] == 2
    scores = read_score_file(tmp_path / "scores.npz")
    assert scores.logits.shape == (8, 1, 8)


@pytest.mark.parametrize("clips", ["auto", "1"])
def test_curve_needs_several_clips(
    clips: str, sample: Path, weights: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert evaluate(sample, weights, tmp_path, "--clips", clips, "--clips-curve") == 2
    error = capsys.readouterr().err
    assert f"needs all clips of each video, and --clips is {clips}; give --clips 20" in error
    assert error.count("\n") == 1
