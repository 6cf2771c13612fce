"""`p3d prepare check` and other commands on segments of longer videos."""

from __future__ import annotations

import csv
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from helpers.videos import write_video
from p3d.cli import main
from p3d.model.network import create_model
from p3d.preprocessing import Preprocessing
from p3d.scores.alignment import Named, align
from p3d.scores.score_file import read_score_file
from p3d.weights.metadata import save_model

pytestmark = pytest.mark.usefixtures("narrow_networks")


@pytest.fixture
def manifest(tmp_path: Path) -> Path:
    """Return a manifest of segments of two videos of 4 s, in the current folder."""
    for name in ("a.mp4", "b.mp4"):
        options = {"codec": "libx264", "gop": 10, "size": (64, 80 if name == "a.mp4" else 96)}
        write_video(tmp_path / name, 100, **options)  # type: ignore[arg-type]
    rows = [
        ("a.mp4", "walk", "train", 0, 1),
        ("a.mp4", "run", "train", 0.5, 2),
        ("a.mp4", "run", "train", 3.9, 6),
        ("b.mp4", "walk", "test", 1, 2),
        ("b.mp4", "run", "test", 2, 4),
        ("b.mp4", "run", "test", 7, 8),
    ]
    path = tmp_path / "manifest.csv"
    with path.open("w", newline="") as file:
        csv.writer(file).writerows([("path", "class", "split", "start", "end"), *rows])
    return path


def test_check_finds_wrong_segments(
    manifest: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(manifest.parent)
    assert main(["prepare", "check", "manifest.csv", "--out", "sound.csv", "--workers", "1"]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert "SEGMENTS of manifest.csv: 6 of 2 files, by the columns start and end (seconds)" in lines
    shown = "\n".join(lines)
    for finding in (
        "broken: 1, which training skips",
        "b.mp4#t=7,8: its segment starts at 7 s, but the video ends at 4.000 s",
        "segments that end after the video: 1\n  a.mp4#t=3.9,6: the video ends at 4.000 s",
        "segments that overlap: 1\n  a.mp4#t=0.5,2: overlaps #t=0,1 (run and walk)",
        "note: unlabeled parts: 2\n  a.mp4: 1.9 of 4.0 s in 1 parts, see --background\n",
        "note: shorter than 16 frames: 1\n  a.mp4#t=3.9,6: 3",
    ):
        assert finding in shown, finding
    assert "same content" not in shown
    with (manifest.parent / "sound.csv").open(newline="") as file:
        rows = list(csv.DictReader(file))
    assert [(row["start"], row["end"], row["num_frames"]) for row in rows] == [
        ("0.0", "1.0", "25"),
        ("0.5", "2.0", "38"),
        ("3.9", "6.0", "3"),
        ("1.0", "2.0", "25"),
        ("2.0", "4.0", "50"),
    ]


def test_segments_are_trained_on_scored_and_featured(
    manifest: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    folder = manifest.parent
    model = create_model("p3d63", num_classes=3)
    model.class_names = ("run", "walk", "background")
    model.preprocessing = Preprocessing(num_frames=4, resize=(20, 20), crop=16, fps=25.0)
    save_model(model, folder / "net.safetensors")
    data = ["--data", str(manifest), "--background"]
    net = ["--weights", str(folder / "net.safetensors"), "--device", "cpu"]
    out = folder / "out"
    extra = ["--clips", "2", "--on-bad-video", "skip"]
    assert main(["eval", *data, *net, *extra, "--out", str(out)]) == 0
    assert "BACKGROUND: " in capsys.readouterr().out
    scores = read_score_file(out)
    names = [Path(path).name for path in scores.paths]
    # The median segment lasts a second, and only the first second of b is free.
    assert names == ["b.mp4#t=1,2", "b.mp4#t=2,4", "b.mp4#t=0,1"]
    assert scores.groups == ("b.mp4",) * 3
    assert scores.times is not None
    assert np.allclose(scores.times[:, 0], [1, 2, 0])
    assert np.allclose(scores.times[:, 1], [2 - 4 / 25, 4 - 4 / 25, 1 - 4 / 25])
    assert main(["metrics", str(out)]) == 0
    flow = [path.replace("b.mp4", "flow/b.mkv") for path in reversed(scores.paths)]
    other = replace(scores.select(np.array([2, 1, 0])), paths=tuple(flow))
    aligned = align(Named("rgb", scores), Named("flow", other))
    assert np.array_equal(aligned.logits, scores.logits)
    features = ["features", *data, *net, *extra, "--split", "test", "--out"]
    assert main([*features, str(folder / "features.npz")]) == 0
    assert "of 3 videos" in capsys.readouterr().out
    run = ["train", *data, "--recipe", "sample", "--device", "cpu", "--workers", "0"]
    tiny = ["--num-frames", "4", "--resize", "20", "20", "--crop", "16", "--max-steps", "1"]
    assert main([*run, *tiny, "--batch-size", "4", "--out", str(folder / "run"), *extra[2:]]) == 0
    assert "BACKGROUND: " in capsys.readouterr().out
    assert (folder / "run" / "best.safetensors").exists()
