"""`p3d eval` on a data set and on a training run."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import pytest
import torch

import p3d
from helpers.runs import options as run_options
from p3d.cli import main
from p3d.data.digests import video_digest
from p3d.data.layouts import read_dataset
from p3d.evaluation.evaluate import EvalOptions, run
from p3d.evaluation.run_options import run_arguments
from p3d.model.network import P3D
from p3d.scores.score_file import read_score_file
from p3d.system.files import write_json
from p3d.system.options import DeviceOptions, plain_options

QUICK = ("--workers", "0", "--clips", "1", "--device", "cpu")


@pytest.fixture(scope="module")
def model(sample: Path) -> P3D:
    """Return an untrained network for the classes of the sample set."""
    torch.manual_seed(0)
    model = p3d.create_model("p3d63", num_classes=8)
    model.preprocessing = p3d.Preprocessing(num_frames=2, resize=(16, 16), crop=16)
    model.class_names = read_dataset(sample, "test").class_names
    return model


@pytest.fixture(scope="module")
def finished(sample: Path, model: P3D, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return the folder of a run on the sample set, without an epoch in its log."""
    folder = tmp_path_factory.mktemp("runs") / "run"
    folder.mkdir()
    write_json(folder / "config.json", plain_options(run_options(sample, folder)))
    (folder / "log.jsonl").touch()
    p3d.save_model(model, folder / "best.safetensors")
    return folder


def test_results_of_a_run_go_to_its_folder_and_its_report(
    finished: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["eval", *run_arguments(finished), *QUICK]) == 0
    printed = capsys.readouterr().out
    metrics = json.loads((finished / "test" / "metrics.json").read_text())
    assert metrics["videos"] == 8
    assert metrics["top5"] >= metrics["top1"]
    assert metrics["trained_on"] is None
    assert len(metrics["weights_sha256"]) == 64
    scores = read_score_file(finished / "test" / "scores.npz")
    assert scores.weights_sha256 == metrics["weights_sha256"]
    assert scores.logits.shape == (8, 1, 8)
    assert (scores.logits.mean(1).argmax(1) == scores.labels).mean() == metrics["top1"]
    assert scores.protocol["preprocessing"]["crop"] == 16
    assert f"renewed {finished / 'report.html'}" in printed
    assert "top-5" not in printed
    page = (finished / "report.html").read_text()
    assert f"<dt>Test top-1</dt><dd>{metrics['top1']:.1%}<" in page


def test_split_without_videos_is_an_error(
    finished: Path, sample: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    data = tmp_path / "set"
    for name in ("train", "test"):
        shutil.copytree(sample / name, data / name)
    arguments = ["--data", str(data), "--weights", str(finished / "best.safetensors")]
    assert main(["eval", *arguments, "--split", "validation"]) == 2
    [line] = capsys.readouterr().err.splitlines()
    assert "set has no validation videos; give another --split" in line


def test_run_whose_data_moved_is_an_error(
    finished: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["eval", *run_arguments(finished), "--data=gone"]) == 2
    [line] = capsys.readouterr().err.splitlines()
    assert f"--run {finished}: the data gone is not there; give --data" in line


def test_run_without_weights_is_an_error(
    sample: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    write_json(tmp_path / "config.json", plain_options(run_options(sample, tmp_path)))
    assert main(["eval", *run_arguments(tmp_path)]) == 2
    [line] = capsys.readouterr().err.splitlines()
    assert f"--run {tmp_path}: has no best.safetensors yet" in line


def test_videos_that_the_weights_were_trained_on_are_a_warning(
    sample: Path,
    model: P3D,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    test = read_dataset(sample, "test")
    model.trained_on = frozenset(video_digest(r, test.class_names) for r in test.records[:3])
    monkeypatch.setattr("p3d.evaluation.evaluate.load_model", lambda _: model)
    (tmp_path / "weights").touch()
    run(
        EvalOptions(
            p3d.DataOptions(sample),
            tmp_path / "weights",
            clips=1,
            out=tmp_path,
            workers=0,
            compute=DeviceOptions("cpu"),
        )
    )
    model.trained_on = frozenset()
    assert "LEAK: 3 of 8 test videos were in the training list" in capsys.readouterr().out
    assert json.loads((tmp_path / "metrics.json").read_text())["trained_on"] == 3
