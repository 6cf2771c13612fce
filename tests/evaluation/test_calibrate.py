"""`p3d calibrate`, and the temperature in weights and predictions."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch

import p3d
from helpers.scores import write_random
from p3d.cli import main
from p3d.inference.scorer import mean_probabilities
from p3d.inference.settled import choose_settled
from p3d.scores.score_file import read_score_file
from p3d.system.files import file_sha256
from p3d.weights.metadata import save_model

pytestmark = pytest.mark.usefixtures("narrow_networks")


@pytest.fixture(scope="module")
def weights(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return the weights of a network of four classes."""
    torch.manual_seed(0)
    model = p3d.create_model("p3d63", num_classes=4)
    model.preprocessing = p3d.Preprocessing(num_frames=2, resize=(16, 16), crop=16)
    model.class_names = tuple("abcd")
    model.trained_on = frozenset([b"12345"])
    path = tmp_path_factory.mktemp("weights") / "best.safetensors"
    save_model(model, path, source="here", recipe={"epochs": 2})
    return path


@pytest.fixture
def scores(weights: Path, tmp_path: Path) -> Path:
    """Return a folder with validation scores of these weights."""
    protocol, digest = {"split": "validation"}, file_sha256(weights)
    return write_random(tmp_path / "scores", protocol=protocol, weights_sha256=digest)


def test_the_temperature_is_kept_with_the_weights_and_used(
    weights: Path, scores: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    before = file_sha256(weights)
    target = tmp_path / "new.safetensors"
    command = ["calibrate", str(scores), "--weights", str(weights), "--out", str(target)]
    assert main(command) == 0
    printed = capsys.readouterr().out
    assert "WARNING" not in printed
    assert "--clips auto: not fitted, needs 20 clips a video, these are 3" in printed
    assert file_sha256(weights) == before
    old, new = p3d.load_model(weights), p3d.load_model(target)
    temperature = new.calibration["temperature"]
    assert f"temperature {temperature:.4g} (95% interval " in printed
    assert (old.calibration, new.class_names) == ({}, old.class_names)
    assert new.trained_on == old.trained_on
    frames = np.random.default_rng(0).integers(0, 256, (9, 16, 16, 3), np.uint8)
    predictor = p3d.Predictor(new, clips=3, device="cpu")
    logits = torch.linspace(-2, 3, 12).view(3, 4)
    predictor.scorer._network = lambda _: logits
    expected = mean_probabilities(logits / temperature)
    torch.testing.assert_close(predictor(frames).scores, expected)
    assert main(["info", str(target)]) == 0
    printed = capsys.readouterr().out
    assert f"calibrated  predict divides the logits by {temperature:.4g}" in printed
    assert '"epochs": 2' in printed


def test_the_threshold_of_automatic_clips_is_kept_too(
    weights: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    digest, protocol = file_sha256(weights), {"split": "validation"}
    scores = write_random(tmp_path / "s", clips=20, protocol=protocol, weights_sha256=digest)
    target = tmp_path / "new.safetensors"
    assert main(["calibrate", str(scores), "--weights", str(weights), "--out", str(target)]) == 0
    settled = p3d.load_model(target).calibration["settled"]
    kept = read_score_file(scores)
    assert settled == choose_settled(torch.from_numpy(kept.logits), torch.from_numpy(kept.labels))
    assert f"--clips auto: a video is settled at {settled:g}" in capsys.readouterr().out
    assert main(["info", str(target)]) == 0
    assert f"--clips auto takes no more clips at {settled:g}" in capsys.readouterr().out


def test_the_copy_lies_beside_the_weights(weights: Path, scores: Path) -> None:
    for _ in range(2):
        assert main(["calibrate", str(scores), "--weights", str(weights)]) == 0
    copy = weights.with_name("best-calibrated.safetensors")
    assert p3d.load_model(copy).calibration.keys() == {"temperature"}
    copy.unlink()


@pytest.mark.parametrize(
    ("split", "message"), [("test", "these are test scores"), ("train", "training scores")]
)
def test_scores_that_are_not_of_validation_are_a_warning(
    split: str,
    message: str,
    weights: Path,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
) -> None:
    protocol, digest = {"split": split}, file_sha256(weights)
    scores = write_random(tmp_path / "scores", protocol=protocol, weights_sha256=digest)
    target = str(tmp_path / "new.safetensors")
    assert main(["calibrate", str(scores), "--weights", str(weights), "--out", target]) == 0
    assert f"WARNING: these are {message.removeprefix('these are ')}" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("digest", "arguments", "message"),
    [
        ("0" * 64, (), "holds the scores of other weights than"),
        ("", (), "holds the scores of several networks"),
        (None, ("--weights", "gone.safetensors"), "gone.safetensors: no such file"),
        (None, ("--out", "new.pt"), "--out new.pt: weights are written as .safetensors"),
        (None, ("--out", "WEIGHTS"), "is the input itself"),
        (None, ("--resamples", "0"), "--resamples is 0; give 1 or more"),
    ],
)
def test_wrong_use_is_one_line(
    digest: str | None,
    arguments: tuple[str, ...],
    message: str,
    weights: Path,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
) -> None:
    right = file_sha256(weights)
    scores = write_random(tmp_path / "scores", weights_sha256=right if digest is None else digest)
    given = [str(weights) if word == "WEIGHTS" else word for word in arguments]
    if "--weights" not in given:
        given += ["--weights", str(weights)]
    assert main(["calibrate", str(scores), *given]) == 2
    [line] = capsys.readouterr().err.splitlines()
    assert message in line


def test_means_over_clips_cannot_be_calibrated(
    weights: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    protocol, digest = {"clips": "auto"}, file_sha256(weights)
    scores = write_random(tmp_path / "s", clips=1, protocol=protocol, weights_sha256=digest)
    assert main(["calibrate", str(scores), "--weights", str(weights)]) == 2
    assert "holds means over clips; run p3d eval with a number" in capsys.readouterr().err
    assert main(["metrics", str(scores), "--temperature", "2"]) == 2
    assert "and the logits of single clips are divided" in capsys.readouterr().err
    assert main(["metrics", str(scores)]) == 0
    assert "40 videos, 4 classes, clips until settled" in capsys.readouterr().out
