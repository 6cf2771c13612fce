"""`p3d explain` on real files."""

from __future__ import annotations

from pathlib import Path

import av
import numpy as np
import pytest
import torch
from PIL import Image

import p3d
from helpers.videos import number_of, write_video
from p3d.cli import main
from p3d.evaluation.overlays import heat_colors, overlay

pytestmark = pytest.mark.usefixtures("narrow_networks")


@pytest.fixture(scope="module")
def files(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path]:
    """Return a video of 30 frames, and the weights of an untrained network."""
    folder = tmp_path_factory.mktemp("explain")
    torch.manual_seed(0)
    model = p3d.create_model("p3d63", num_classes=3)
    model.preprocessing = p3d.Preprocessing(num_frames=16, resize=(64, 80), crop=64)
    model.class_names = ("walk", "Run", "jump")
    p3d.save_model(model, folder / "weights.safetensors")
    return write_video(folder / "a.avi", 30), folder / "weights.safetensors"


def explain(files: tuple[Path, Path], out: Path, *arguments: str) -> int:
    video, weights = files
    options = ["--weights", str(weights), "--out", str(out), "--device", "cpu"]
    return main(["explain", str(video), *options, *arguments])


def number_in(crop: np.ndarray) -> int:
    """Return the frame number that a center crop shows, without the outer bits."""
    wide = np.zeros((64, 80, 3), np.uint8)
    wide[:, 8:72] = crop
    return number_of(wide)


def test_the_video_itself_is_not_replaced(
    files: tuple[Path, Path], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    video = write_video(tmp_path / "a.mp4", 20)
    before = video.read_bytes()
    assert explain((video, files[1]), video) == 2
    [line] = capsys.readouterr().err.splitlines()
    assert f"--out {video}: is the input itself, which would be replaced" in line
    assert video.read_bytes() == before


def test_video_shows_the_clip_beside_its_maps(
    files: tuple[Path, Path], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert explain(files, tmp_path / "cam.mp4", "--class", "run", "--start", "10") == 0
    printed = capsys.readouterr().out
    assert "frames 10 to 25 of 30" in printed
    assert "shown: Run: " in printed
    assert "res4 (2 steps in time for 16 frames, 4x4 places)" in printed
    with av.open(str(tmp_path / "cam.mp4")) as container:
        frames = [frame.to_ndarray(format="rgb24") for frame in container.decode(video=0)]
        assert container.streams.video[0].average_rate == 5
    assert len(frames) == 16
    assert {frame.shape for frame in frames} == {(64 * 4 + 16, 64 * 8, 3)}
    shown = [number_in(frame[:256:4, :256:4]) for frame in frames]
    assert shown == [number & ~(1 | 1 << 9) for number in range(10, 26)]


def test_strip_shows_some_frames_above_their_maps(
    files: tuple[Path, Path], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert explain(files, tmp_path / "cam.png", "--layer", "res5") == 0
    assert "res5 (1 step in time" in capsys.readouterr().out
    with Image.open(tmp_path / "cam.png") as image:
        assert image.size == (8 * 130 - 2, 2 * 128 + 16)


def test_short_video_repeats_its_last_frame(
    files: tuple[Path, Path], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert explain(files, tmp_path / "cam.png", "--start", "28") == 0
    assert "frames 28 to 29 of 30" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("out", "arguments", "message"),
    [
        ("cam.gif", [], "cam.gif: give a file that ends in .mp4 or .png"),
        ("no/cam.png", [], "no/cam.png: its folder does not exist"),
        ("cam.png", ["--class", "junp"], "the network has no such class; did you mean jump?"),
        ("cam.png", ["--class", "xyz"], "the network has no such class; it has walk, Run, jump"),
        ("cam.png", ["--start", "30"], "--start is 30; give a frame from 0 to 29"),
    ],
)
def test_mistakes_are_one_line(
    files: tuple[Path, Path],
    tmp_path: Path,
    out: str,
    arguments: list[str],
    message: str,
    capsys: pytest.CaptureFixture[str],
) -> None:
    assert explain(files, tmp_path / out, *arguments) == 2
    [line] = capsys.readouterr().err.splitlines()
    assert message in line
    assert not list(tmp_path.iterdir())


def test_weights_that_are_not_finite_are_one_line(
    files: tuple[Path, Path], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    video, weights = files
    model = p3d.load_model(weights)
    with torch.no_grad():
        model.stem.conv.weight[0] = torch.nan
    p3d.save_model(model, tmp_path / "nan.safetensors")
    assert explain((video, tmp_path / "nan.safetensors"), tmp_path / "cam.png") == 2
    assert "outputs are not finite; check the weights" in capsys.readouterr().err
    assert not (tmp_path / "cam.png").exists()


def test_overlay_shows_the_frame_where_the_map_is_zero() -> None:
    frames = np.random.default_rng(0).integers(0, 256, (2, 3, 4, 3), np.uint8)
    heat = np.zeros((2, 3, 4), np.float32)
    np.testing.assert_array_equal(overlay(frames, heat), frames)
    heat[1, 2, 3] = 1
    drawn = overlay(frames, heat)
    assert (drawn != frames).any(-1).nonzero() == (np.array([1]), np.array([2]), np.array([3]))
    np.testing.assert_allclose(
        drawn[1, 2, 3], 0.35 * frames[1, 2, 3] + 0.65 * np.array([255, 0, 0]), atol=1
    )
    assert heat_colors(heat).shape == (2, 3, 4, 3)
