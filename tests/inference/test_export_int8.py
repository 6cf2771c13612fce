"""8-bit networks are calibrated on the training list, measured on the test list, and refused."""

from __future__ import annotations

import shutil
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch

from helpers.tiny_networks import FRAMES, SIZE, make_blocks_few, make_networks_narrow, tiny_network
from p3d.cli import main
from p3d.data.clips import read_eval_clips
from p3d.data.layouts import DataOptions, read_dataset
from p3d.errors import UserError
from p3d.inference.backends.names import INT8_TOLERANCE, relative_error
from p3d.inference.export_spec import ExportSpec
from p3d.inference.exported import ExportedNetwork
from p3d.inference.quantize import export_int8
from p3d.inference.scorer import Scorer
from p3d.model.network import P3D
from p3d.video.decode import open_video
from p3d.weights.metadata import save_model
from p3d.weights.safetensors_files import checksum

CPU = torch.device("cpu")


@pytest.fixture
def model(sample: Path, monkeypatch: pytest.MonkeyPatch) -> P3D:
    make_networks_narrow(monkeypatch)
    return tiny_network(classes=read_dataset(sample, "test").class_names)


@pytest.fixture
def wide_model(sample: Path, monkeypatch: pytest.MonkeyPatch) -> P3D:
    """Return a network whose weights are most of its file."""
    make_blocks_few(monkeypatch)
    return tiny_network(classes=read_dataset(sample, "test").class_names)


@pytest.mark.parametrize(
    ("name", "packages", "spec"),
    [
        ("small.pt2", (), ExportSpec("aot")),
        (
            "small.onnx",
            ("onnx", "onnxscript", "onnxruntime"),
            ExportSpec("onnx", batch=None, with_preprocessing=True, four_dims=True),
        ),
    ],
)
def test_int8(
    name: str,
    packages: tuple[str, ...],
    spec: ExportSpec,
    wide_model: P3D,
    sample: Path,
    tmp_path: Path,
) -> None:
    for package in packages:
        pytest.importorskip(package)
    model, path = wide_model, tmp_path / name
    spec = replace(spec, frames=FRAMES, size=SIZE)
    result = export_int8(
        model, path, spec, DataOptions(sample), clips=8, clips_per_video=1, max_loss=100
    )
    assert result.calibration_clips == 8
    assert result.videos == len(read_dataset(sample, "test").records)
    assert result.verification.worst < INT8_TOLERANCE
    assert path.stat().st_size < 0.5 * 4 * sum(p.numel() for p in model.parameters())
    file = ExportedNetwork(path)
    assert file.spec.int8
    assert file.description.entries["weights_hash"] == checksum(model.state_dict())
    with open_video(read_dataset(sample, "test").records[0].path) as video:
        clip = read_eval_clips(video, model.preprocessing, 1)
    found, expected = (Scorer(network, CPU)(clip).softmax(-1) for network in (file, model))
    assert 1e-5 < relative_error(found, expected) < 0.3
    assert [part.name for part in tmp_path.iterdir()] == [name]


def test_too_much_is_lost(model: P3D, sample: Path, tmp_path: Path) -> None:
    pytest.importorskip("onnx")
    pytest.importorskip("onnxscript")
    pytest.importorskip("onnxruntime")
    spec = ExportSpec("onnx", frames=FRAMES, size=SIZE)
    with pytest.raises(UserError, match=r"int8 loses .* points of top-1 .* nothing is written"):
        export_int8(
            model,
            tmp_path / "b.onnx",
            spec,
            DataOptions(sample),
            clips=1,
            clips_per_video=1,
            max_loss=-200,
        )
    assert not list(tmp_path.iterdir())


def test_nothing_to_calibrate_on(model: P3D, sample: Path, tmp_path: Path) -> None:
    data = shutil.copytree(sample, tmp_path / "data")
    for video in (data / "train").rglob("*.*"):
        video.write_bytes(b"no video")
    spec = ExportSpec("onnx", frames=FRAMES, size=SIZE)
    with pytest.raises(UserError, match=r"no video of the training list .* can be read \(.*\); ch"):
        export_int8(model, tmp_path / "a.onnx", spec, DataOptions(data))
    other = tiny_network(classes=("a", "b"))
    with pytest.raises(UserError, match=r"w\.pt has 2 classes, the data set has"):
        export_int8(other, tmp_path / "a.onnx", spec, DataOptions(sample), source="w.pt")
    assert not (tmp_path / "a.onnx").exists()


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (["--int8"], "give a data set with the network's classes (--calibrate DATA)"),
        (["--int8", "--calibrate", "missing"], "p3d: error: missing: no such folder"),
        (["--int8", "--calibrate", "x", "--frames", "32"], "network's own 4 frames of 32 px"),
    ],
)
def test_wrong_options(
    model: P3D,
    options: list[str],
    message: str,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.chdir(tmp_path)
    save_model(model, "w.safetensors")
    assert main(["export", "w.safetensors", "a.onnx", *options]) == 2
    assert message in capsys.readouterr().err


@pytest.mark.parametrize(
    ("form", "message"),
    [
        ({"backend": "openvino"}, "OpenVINO takes 8-bit networks as .onnx"),
        ({"backend": "aot", "precision": "bf16"}, "--int8 takes no --precision"),
        ({"backend": "aot", "device": "cuda"}, "--int8 takes no --precision and no --device"),
    ],
)
def test_forms_that_have_no_8_bit_file(form: dict[str, Any], message: str) -> None:
    with pytest.raises(UserError, match=message):
        ExportSpec(**form, int8=True)
