"""Exported files give PyTorch's logits, describe themselves, and are refused where they do not."""

from __future__ import annotations

import json
import re
import shutil
import sys
import warnings
import zipfile
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch

from helpers.disk import no_file_above
from helpers.tiny_networks import CLASSES, FRAMES, SIZE, make_networks_narrow, tiny_network
from helpers.videos import write_video
from p3d.cli import main
from p3d.errors import UserError
from p3d.inference.backends import aot, onnx_runtime
from p3d.inference.export import export_network
from p3d.inference.export_command import summary
from p3d.inference.export_spec import ExportSpec, noise_clip
from p3d.inference.exported import ExportedNetwork, FileNetwork
from p3d.inference.graph import most_axes, trace
from p3d.inference.predictor import Predictor
from p3d.inference.scorer import Scorer
from p3d.inference.verify import Verification
from p3d.model import blocks
from p3d.weights.metadata import save_model

CPU = torch.device("cpu")
MANY_CLASSES = tuple(map(str, range(2000)))  # 2 MB of weights


@pytest.fixture(autouse=True, scope="module")
def _narrow() -> Iterator[None]:
    with pytest.MonkeyPatch.context() as patch:
        make_networks_narrow(patch)
        yield


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("exported")


@pytest.fixture(scope="module")
def onnx_file(folder: Path) -> Path:
    """Return the plain form: fixed shape, pixels in, logits out."""
    for package in ("onnx", "onnxscript", "onnxruntime"):
        pytest.importorskip(package)
    path = folder / "tiny.onnx"
    export_network(tiny_network(), path, ExportSpec("onnx", frames=FRAMES, size=SIZE))
    return path


@pytest.fixture(scope="module")
def package(folder: Path) -> Path:
    """Return a compiled package: the only one of the tests, since compiling is slow."""
    path = folder / "tiny.pt2"
    export_network(tiny_network(), path, ExportSpec("aot", frames=FRAMES, size=SIZE, batch=2))
    return path


def clips(count: int) -> torch.Tensor:
    config = tiny_network().config
    return torch.cat([noise_clip(config, FRAMES, SIZE, 10 + seed) for seed in range(count)])


def test_noise_is_the_same_on_every_machine() -> None:
    clip = noise_clip(tiny_network().config, 2, 3)
    assert clip.shape == (1, 2, 3, 3, 3)
    assert clip.flatten()[:6].tolist() == [0, 17, 252, 245, 229, 243]
    assert 100 < noise_clip(tiny_network().config, 8, 64).float().mean() < 155


def test_onnx_takes_any_number_of_clips(onnx_file: Path) -> None:
    scorer = Scorer(ExportedNetwork(onnx_file), CPU)
    assert scorer.batch_size == 1
    expected = Scorer(tiny_network(), CPU, batch_size=16)(clips(3))
    torch.testing.assert_close(scorer(clips(3)), expected, rtol=1e-4, atol=1e-4)


def test_another_runtime_does_not_share_cores_with_waiting_threads(
    onnx_file: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    threads: list[int] = []
    prepare = ExportSpec.prepare

    def record(spec: ExportSpec, *arguments: Any) -> torch.Tensor:
        threads.append(torch.get_num_threads())
        return prepare(spec, *arguments)

    scorer = Scorer(ExportedNetwork(onnx_file), CPU)
    monkeypatch.setattr(ExportSpec, "prepare", record)
    before = torch.get_num_threads()
    torch.set_num_threads(2)
    try:
        scorer(clips(1))
        assert (threads, torch.get_num_threads()) == ([1], 2)
    finally:
        torch.set_num_threads(before)


def test_package_fills_up_its_fixed_batch(package: Path) -> None:
    scorer = Scorer(ExportedNetwork(package), CPU)
    assert scorer.batch_size == 2
    expected = Scorer(tiny_network(), CPU, batch_size=16)(clips(3))
    torch.testing.assert_close(scorer(clips(3)), expected, rtol=1e-4, atol=1e-4)


def test_files_describe_themselves(onnx_file: Path, package: Path) -> None:
    model = tiny_network()
    for path in (onnx_file, package):
        file = ExportedNetwork(path)
        assert file.config == model.config
        assert file.preprocessing == model.preprocessing
        assert file.class_names == CLASSES
        entries = file.description.entries
        assert entries["weights_hash"].startswith("blake2b:")
        assert entries["torch_version"] == torch.__version__


@pytest.mark.parametrize(
    ("spec", "form"),
    [
        (ExportSpec("onnx", batch=None, frames=5, size=33, four_dims=True), {"wiring": "port"}),
        (ExportSpec("onnx", batch=3, frames=1, size=SIZE, with_preprocessing=True), {}),
        (
            ExportSpec("onnx", frames=6, size=SIZE, with_preprocessing=True, four_dims=True),
            {"modality": "flow", "variant": "B"},
        ),
    ],
    ids=["four axes", "preprocessing", "both"],
)
def test_forms(spec: ExportSpec, form: dict[str, str], tmp_path: Path, onnx_file: Path) -> None:
    assert onnx_file.exists()  # skips without ONNX
    path = tmp_path / "network.onnx"
    found = export_network(tiny_network(**form), path, spec)
    assert found.worst < 1e-5
    assert found.same_class == 1
    assert [part.name for part in tmp_path.iterdir()] == ["network.onnx"]


def test_free_axes_are_compared_at_other_sizes(
    tmp_path: Path, onnx_file: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert onnx_file.exists()  # skips without ONNX
    shapes: set[torch.Size] = set()
    call = FileNetwork.__call__

    def spy(self: FileNetwork, clips: torch.Tensor) -> torch.Tensor:
        shapes.add(clips.shape)
        return call(self, clips)

    monkeypatch.setattr(FileNetwork, "__call__", spy)
    spec = ExportSpec("onnx", batch=None, frames=None, size=None)
    assert export_network(tiny_network(), tmp_path / "network.onnx", spec).worst < 1e-5
    batches, lengths, heights, _, _ = map(set, zip(*shapes, strict=True))
    assert max(batches) > 1
    assert min(map(len, (batches, lengths, heights))) > 1
    assert any(height != width for _, _, height, width, _ in shapes)


def test_openvino(tmp_path: Path) -> None:
    pytest.importorskip("openvino")
    path = tmp_path / "network.xml"
    model = tiny_network(wiring="port")
    spec = ExportSpec("openvino", batch=None, frames=FRAMES, size=SIZE)
    assert export_network(model, path, spec).worst < 1e-5
    expected = Scorer(model, CPU, batch_size=16)(clips(3))
    found = Scorer(ExportedNetwork(path), CPU)(clips(3))
    torch.testing.assert_close(found, expected, rtol=1e-4, atol=1e-4)
    weights = path.with_suffix(".bin")
    weights.write_bytes(weights.read_bytes()[:1000])
    assert re.search(r"OpenVINO refuses it \(.+\); export it again", refusal(path))
    weights.unlink()
    assert refusal(path) == "network.bin is missing beside it; copy both files"
    weights.write_bytes(b"")
    path.write_bytes(b"no XML")
    assert refusal(path) == "it is no OpenVINO file; export it again"


@pytest.mark.parametrize("wiring", ["author", "port"])
def test_no_tensor_has_more_than_four_axes(wiring: str) -> None:
    spec = ExportSpec("onnx", frames=6, size=SIZE, four_dims=True)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # PyTorch calls its own old functions
        assert most_axes(trace(tiny_network(wiring=wiring), spec)) == 4
        assert most_axes(trace(tiny_network(wiring=wiring), replace(spec, four_dims=False))) == 5


@pytest.mark.parametrize(("free", "four_dims"), [("batch", 0), ("batch", 1), ("frames", 0)])
def test_sizes_do_not_grow_from_block_to_block(
    free: str, four_dims: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    """While tracing, they doubled in length with every change of view: hours for a network."""
    sizes: list[str] = []
    view = blocks.temporal_view

    def note(x: torch.Tensor, frames: int) -> torch.Tensor:
        sizes.append(str(x.shape[0]))
        return view(x, frames)

    monkeypatch.setattr(blocks, "temporal_view", note)
    fixed: dict[str, Any] = {"batch": 1, "frames": 16, "size": 48} | {free: None}
    trace(tiny_network(), ExportSpec("onnx", four_dims=bool(four_dims), **fixed))
    assert len(sizes) >= 3
    assert max(map(len, sizes)) < 40


def test_predict_names_the_classes(onnx_file: Path, tmp_path: Path) -> None:
    video = write_video(tmp_path / "a.avi", 10, size=(SIZE + 4, SIZE + 8))
    weights = tmp_path / "weights.safetensors"
    save_model(tiny_network(), weights)
    ours, theirs = (Predictor(path, clips=3)(video) for path in (weights, onnx_file))
    assert [name for name, _ in ours.top()] == [name for name, _ in theirs.top()]
    torch.testing.assert_close(ours.scores, theirs.scores, rtol=1e-4, atol=1e-5)


def test_command(onnx_file: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert onnx_file.exists()
    video = write_video(tmp_path / "a.avi", 10, size=(SIZE + 4, SIZE + 8))
    weights, out = tmp_path / "weights.safetensors", tmp_path / "out.onnx"
    save_model(tiny_network(), weights)
    assert main(["export", str(weights), str(out), "--verify-with", str(video)]) == 0
    printed = capsys.readouterr().out
    assert "opset 18" in printed
    assert "on noise" in printed
    assert "on videos" in printed
    assert main(["export", str(weights), str(out)]) == 2
    assert "exists already" in capsys.readouterr().err


def refusal(path: Path) -> str:
    """Return the message of the error that opening and connecting a file raises."""
    with pytest.raises(UserError) as caught:
        ExportedNetwork(path).connect(CPU)
    message = str(caught.value)
    assert message.startswith(str(path))
    assert "\n" not in message
    return message.removeprefix(f"{path}: ")


def test_a_file_that_gives_other_logits_is_not_written(onnx_file: Path, tmp_path: Path) -> None:
    assert onnx_file.exists()
    spec = ExportSpec("onnx", frames=FRAMES, size=SIZE)
    with pytest.raises(UserError, match=r"differ by .* nothing is written"):
        export_network(tiny_network(), tmp_path / "a.onnx", spec, tolerance=0.0)
    assert not list(tmp_path.iterdir())


def test_a_file_that_gives_other_logits_is_not_run(onnx_file: Path, tmp_path: Path) -> None:
    onnx = pytest.importorskip("onnx")
    changed = onnx.load(onnx_file)
    for entry in changed.metadata_props:
        if entry.key == "reference":
            reference = json.loads(entry.value)
            reference["logits"][0] += 1
            entry.value = json.dumps(reference)
    path = tmp_path / "changed.onnx"
    onnx.save(changed, path)
    assert "its logits differ by" in refusal(path)


def test_foreign_onnx_files_are_refused(onnx_file: Path, tmp_path: Path) -> None:
    onnx = pytest.importorskip("onnx")
    foreign = onnx.load(onnx_file)
    del foreign.metadata_props[:]
    path = tmp_path / "foreign.onnx"
    onnx.save(foreign, path)
    assert "no metadata of p3d" in refusal(path)
    path.write_bytes(b"no protobuf at all")
    assert "no ONNX file, or damaged" in refusal(path)
    path.write_bytes(onnx_file.read_bytes()[:-5000])
    assert "damaged" in refusal(path) or "no metadata" in refusal(path)


def test_metadata_equals_that_of_the_onnx_package(onnx_file: Path) -> None:
    onnx = pytest.importorskip("onnx")
    props = {entry.key: entry.value for entry in onnx.load(onnx_file).metadata_props}
    assert onnx_runtime.read_metadata(onnx_file) == props


def test_a_missing_extra_is_named(onnx_file: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "onnxruntime", None)
    assert "pip install 'p3d[onnx]'" in refusal(onnx_file)


def test_clips_of_another_size_are_refused(onnx_file: Path) -> None:
    scorer = Scorer(ExportedNetwork(onnx_file), CPU)
    with pytest.raises(
        UserError, match=r"\.onnx: takes clips of 4 frames of 32 px, not 4 of 40x40; export"
    ):
        scorer(torch.zeros(1, FRAMES, 40, 40, 3, dtype=torch.uint8))
    with pytest.raises(UserError, match="batches of 1; omit --batch-size"):
        Scorer(ExportedNetwork(onnx_file), CPU, batch_size=4)
    with pytest.raises(UserError, match="computes in fp32; omit --precision bf16"):
        Scorer(ExportedNetwork(onnx_file), CPU, "bf16")
    with pytest.raises(UserError, match="a file for onnx does not run by aot"):
        ExportedNetwork(onnx_file, "aot")


@pytest.mark.parametrize(
    ("entry", "value", "message"),
    [
        ("torch_version", "2.4.0", "compiled by torch 2.4.0, this is .*; export it again"),
        ("instructions", "avx2 amx_future", "for a processor with amx_future, which this one"),
        ("p3d_export", "2", "its export version is 2, this p3d reads 1; upgrade p3d"),
        ("export", "{", "its metadata is damaged"),
    ],
)
def test_packages_of_other_machines_are_refused(
    package: Path, tmp_path: Path, entry: str, value: str, message: str
) -> None:
    path = tmp_path / "other.pt2"
    metadata = aot.read_metadata(package) | {entry: value}
    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr("tiny/extra/p3d.json", json.dumps(metadata))
    assert re.search(message, refusal(path))


def test_a_damaged_package_is_refused(package: Path, tmp_path: Path) -> None:
    path = tmp_path / "cut.pt2"
    shutil.copy(package, path)
    path.write_bytes(path.read_bytes()[:1000])
    assert "no package, or damaged" in refusal(path)
    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr("x/other", "")
    assert "no metadata of p3d" in refusal(path)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["net.bin"], "its suffix names no runtime"),
        (["net.onnx", "--precision", "bf16"], "an? onnx file cannot state bf16"),
        (["net.onnx", "--opset", "9"], "--opset is 9; give 18 to"),
        (["net.onnx", "--four-dims", "--frames", "free"], "--four-dims needs a fixed clip length"),
        (["net.pt2", "--size", "free"], "a .pt2 of free size gives other logits at other sizes"),
        (["net.onnx", "--batch", "0"], "--batch is 0; give 1 to 10000, or free"),
        (["net.onnx", "--verify-with", "gone.avi"], "p3d: error: gone.avi: no such file"),
        (["missing/net.onnx"], "no such folder; create it first"),
        (
            ["net.onnx", "--frames", "free"],
            "--frames free takes 16 and more, but .* clips have 4;",
        ),
        (["net.onnx", "--size", "free"], "--size free takes 48 and more, but .* clips have 32;"),
    ],
)
def test_wrong_options(
    arguments: list[str],
    message: str,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.chdir(tmp_path)
    save_model(tiny_network(), "w.safetensors")
    assert main(["export", "w.safetensors", *arguments]) == 2
    assert re.search(message, capsys.readouterr().err)


def test_the_size_of_a_file_is_its_own(onnx_file: Path, tmp_path: Path) -> None:
    path = tmp_path / "tiny.onnx"
    shutil.copy(onnx_file, path)
    path.with_suffix(".bin").write_bytes(bytes(10_000_000))  # another export's
    spec = ExportedNetwork(path).spec
    size = path.stat().st_size / 1e6
    assert f"tiny.onnx ({size:.1f} MB)" in summary(path, spec, Verification(0, None, 1))


def test_what_differs_is_named(tmp_path: Path) -> None:
    path = tmp_path / "a.onnx"
    path.touch()
    spec = ExportSpec("onnx", with_preprocessing=True)
    assert "largest of the probabilities;" in summary(path, spec, Verification(0, None, 1))


@pytest.mark.parametrize("suffix", [".onnx", ".xml", ".pt2"])
def test_a_full_disk(
    suffix: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    save_model(tiny_network(classes=MANY_CLASSES), "w.safetensors")
    full = shutil.disk_usage(tmp_path)._replace(free=10**6)
    monkeypatch.setattr(shutil, "disk_usage", lambda _: full)
    assert main(["export", "w.safetensors", f"net{suffix}"]) == 2
    message = (
        rf"p3d: error: net{suffix}: cannot be written: it takes about \d+ MB and its disk has 1 "
    )
    assert re.search(message, capsys.readouterr().err)
    assert [*tmp_path.iterdir()] == [tmp_path / "w.safetensors"]


@pytest.mark.parametrize("suffix", [".onnx", ".xml"])
def test_a_disk_that_fills_up(
    suffix: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    for name in ("onnx", "onnxscript", "openvino"):
        pytest.importorskip(name)
    monkeypatch.chdir(tmp_path)
    save_model(tiny_network(classes=MANY_CLASSES), "w.safetensors")
    with no_file_above(10**6):
        assert main(["export", "w.safetensors", f"net{suffix}"]) == 2
    assert re.search(
        rf"p3d: error: net{suffix}: cannot be written \(.+\); check", capsys.readouterr().err
    )
    assert [*tmp_path.iterdir()] == [tmp_path / "w.safetensors"]
