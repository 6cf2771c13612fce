"""Pictures and optical flow together, as a user calls it, and against both networks by hand."""

from __future__ import annotations

import json
from collections.abc import Iterator, Sequence
from pathlib import Path

import pytest
import torch
from PIL import Image

from helpers.videos import write_frames, write_video
from p3d.cli import main
from p3d.errors import UserError
from p3d.inference.fusion import Fusion, read_fusion, write_fusion
from p3d.inference.predictor import Predictor
from p3d.inference.scorer import mean_probabilities
from p3d.inference.two_streams import Stream, TwoStreams
from p3d.model.network import create_model
from p3d.preprocessing import AUTHORS_FLOW, IMAGENET, Preprocessing
from p3d.system.files import file_sha256
from p3d.video import video_file
from p3d.video.geometry import Box
from p3d.video.sources import Piece
from p3d.weights.metadata import save_model

SMALL = {"num_frames": 4, "resize": (18, 24), "crop": 16}


@pytest.fixture(scope="module")
def folder(
    narrow_networks: None,  # noqa: ARG001
    tmp_path_factory: pytest.TempPathFactory,
) -> Path:
    """Return a folder of videos and of networks for pictures and for flow."""
    root = tmp_path_factory.mktemp("streams")
    for seed, prep in enumerate((IMAGENET, AUTHORS_FLOW)):
        torch.manual_seed(seed)
        flow = prep.channels == "flow"
        model = create_model("p3d63", num_classes=3, modality="flow" if flow else "rgb")
        model.class_names = ("walk", "run", "skip")
        model.preprocessing = Preprocessing.from_dict(
            {**prep.to_dict(), **SMALL, "flow_method": "tvl1", "flow_short_side": 20}
        )
        model.fc.weight.data *= 20
        save_model(model, root / f"{'flow' if flow else 'rgb'}.safetensors")
    write_video(root / "a.avi", 12)
    write_video(root / "b.avi", 3)
    write_frames(root / "frames", 6)
    return root


@pytest.fixture(autouse=True)
def _in_folder(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(folder)


def predict(*words: object) -> int:
    return main(["predict", "--device", "cpu", "--clips", "2", *map(str, words)])


def scores(capsys: pytest.CaptureFixture[str], *words: object) -> list[dict[str, float]]:
    """Return the scores that a command prints for each video."""
    assert predict(*words, "--json") == 0
    records = [json.loads(line) for line in capsys.readouterr().out.splitlines()]
    return [{each["class"]: each["score"] for each in record["top"]} for record in records]


def test_answers_are_the_weighted_mean(capsys: pytest.CaptureFixture[str]) -> None:
    videos = ("a.avi", "b.avi", "frames")
    rgb = scores(capsys, "--weights", "rgb.safetensors", *videos)
    flow = scores(capsys, "--weights", "flow.safetensors", *videos)
    for weight, networks in (
        (0.5, ("rgb.safetensors", "flow.safetensors", *videos)),
        (0.3, ("rgb.safetensors", "flow.safetensors", *videos, "--fusion", 0.3)),
        (0.3, ("flow.safetensors", *videos, "rgb.safetensors", "--fusion", 0.7)),
    ):
        fused = scores(capsys, "--weights", *networks)
        for first, second, both in zip(rgb, flow, fused, strict=True):
            expected = {k: (1 - weight) * first[k] + weight * second[k] for k in first}
            assert both == pytest.approx(expected, abs=1e-5)


def test_the_fusion_of_p3d_fuse_is_taken(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    hashes = file_sha256(Path("flow.safetensors")), file_sha256(Path("rgb.safetensors"))
    write_fusion(tmp_path / "fusion.json", Fusion(0.2, "logits"), hashes)
    assert read_fusion(tmp_path, hashes) == Fusion(0.2, "logits")
    words = ("--weights", "rgb.safetensors", "flow.safetensors", "a.avi")
    assert predict(*words, "--fusion", tmp_path) == 0
    out, err = capsys.readouterr()
    assert "mean of logits, weight of flow.safetensors 0.8\n" in err
    assert out.split()[:2] == ["a.avi", "score"]
    answers = tmp_path / "answers.csv"
    assert predict(*words, "--out", answers) == 0
    assert predict(*words, "--out", answers, "--fusion", 0.1) == 2


def test_frames_are_decoded_once(monkeypatch: pytest.MonkeyPatch) -> None:
    decoded = []
    original = video_file.VideoFile.pieces

    def pieces(
        self: video_file.VideoFile, frames: Sequence[int], box: Box | None = None
    ) -> Iterator[Piece]:
        decoded.extend(frames)
        return original(self, frames, box)

    monkeypatch.setattr(video_file.VideoFile, "pieces", pieces)
    first, second = (
        Stream(name, each.scorer, each.class_names)
        for name in ("rgb.safetensors", "flow.safetensors")
        for each in [Predictor(name, device="cpu", clips=2)]
    )
    prediction = TwoStreams(first, second, Fusion(), 2)(Path("a.avi"))
    assert sorted(decoded) == sorted(set(decoded))
    assert set(decoded) <= set(range(12))
    assert (prediction.num_frames, prediction.num_clips) == (12, 2)


@pytest.mark.parametrize("weight", [0.0, 0.25, 1.0])
def test_logits_are_fused(weight: float) -> None:
    first, second = torch.randn(2, 3, 4), torch.randn(2, 5, 4)
    fused = Fusion(weight).log_probabilities(first, second).exp()
    expected = (1 - weight) * mean_probabilities(first) + weight * mean_probabilities(second)
    torch.testing.assert_close(fused.float(), expected)
    fused = Fusion(weight, "logits").log_probabilities(first, second).exp()
    expected = ((1 - weight) * first.mean(-2) + weight * second.mean(-2)).softmax(-1)
    torch.testing.assert_close(fused.float(), expected)
    swapped = Fusion(weight, "logits").swapped().log_probabilities(second, first)
    torch.testing.assert_close(swapped.exp(), fused)


@pytest.mark.parametrize(
    ("words", "message"),
    [
        ("rgb.safetensors rgb.safetensors a.avi", "both take pictures; give one network"),
        ("rgb.safetensors flow.safetensors a.avi --clips auto", "--clips auto is for one network"),
        ("rgb.safetensors flow.safetensors rgb.safetensors a.avi", "3 files of weights were given"),
        ("rgb.safetensors a.avi --fusion 0.5", "--fusion is for two networks"),
        ("rgb.safetensors flow.safetensors a.avi --fusion 2", "weight of the second network is 2"),
        ("rgb.safetensors flow.safetensors a.avi --fusion .", "p3d fuse --out writes it"),
        ("rgb.safetensors flow.safetensors a.avi --fusion other.json", "fuses other weights"),
        ("rgb.safetensors flow.safetensors a.avi --fusion bad.json", "is damaged"),
        ("rgb.safetensors flow.safetensors", "no videos were given"),
        ("rgb.safetensors gone.safetensors a.avi", "gone.safetensors: cannot be read"),
    ],
)
def test_wrong_uses_get_one_line(
    words: str, message: str, capsys: pytest.CaptureFixture[str]
) -> None:
    write_fusion(Path("other.json"), Fusion(), ("0" * 64, "1" * 64))
    Path("bad.json").write_text('{"version": 1}')
    assert predict("--weights", *words.split()) == 2
    out, err = capsys.readouterr()
    assert out == ""
    [line] = err.splitlines()
    assert message in line


def test_networks_of_other_classes_are_refused() -> None:
    predictor = Predictor("rgb.safetensors", device="cpu")
    flow = Predictor("flow.safetensors", device="cpu")
    first = Stream("A", predictor.scorer, predictor.class_names)
    with pytest.raises(UserError, match="A and B have other classes"):
        TwoStreams(first, Stream("B", flow.scorer, ("x", "y", "z")), Fusion(), 1)


def test_a_folder_with_flow_is_not_computed_again(tmp_path: Path) -> None:
    frames = write_frames(tmp_path / "both", 5)
    for number in range(1, 5):
        for axis in "xy":
            Image.new("L", (25, 20), 140).save(frames / f"flow_{axis}_{number:05}.jpg")
    streams = [
        Stream(name, each.scorer, each.class_names)
        for name in ("rgb.safetensors", "flow.safetensors")
        for each in [Predictor(name, device="cpu", clips=1)]
    ]
    both = TwoStreams(streams[0], streams[1], Fusion(1.0), 1)(frames)
    alone = Predictor("flow.safetensors", device="cpu", clips=1)(frames)
    torch.testing.assert_close(both.scores, alone.scores)
