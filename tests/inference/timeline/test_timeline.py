"""`p3d timeline` and `Predictor.timeline`, compared with scoring every window by itself."""

from __future__ import annotations

import json
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch

from helpers.tiny_networks import make_blocks_few, tiny_network
from helpers.videos import write_frames, write_video
from p3d.cli import main
from p3d.data.sampling import frames_at
from p3d.data.transforms import eval_transform
from p3d.errors import UserError
from p3d.inference.predictor import Predictor
from p3d.inference.scorer import Scorer
from p3d.inference.timeline.cut_options import CutOptions
from p3d.inference.timeline.timeline import Timeline, format_time
from p3d.model.network import P3D
from p3d.scores.segment_file import read_segments
from p3d.video.decode import open_video
from p3d.weights.metadata import save_model

LOOSE = ("--high", "0.35", "--low", "0.3", "--smooth", "0", "--shortest", "0")


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """Return a folder of videos and weights at 25 frames per second."""
    root = tmp_path_factory.mktemp("timeline")
    with pytest.MonkeyPatch.context() as patch:
        make_blocks_few(patch)
        model = tiny_network()
        model.preprocessing = replace(model.preprocessing, fps=25.0)
        save_model(model, root / "net.safetensors")
        write_video(root / "film.mp4", 100, codec="libx264", b_frames=2, fps=30)
        write_video(root / "short.avi", 2)
        (root / "bad.mp4").write_bytes(b"no video")
        yield root


@pytest.fixture(autouse=True)
def _in_folder(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(folder)


def timeline(*words: object) -> int:
    fixed = ("timeline", "--weights", "net.safetensors", "--device", "cpu", *LOOSE)
    return main([*fixed, *map(str, words)])


@pytest.fixture(scope="module")
def predictor(folder: Path) -> Predictor:
    return Predictor(folder / "net.safetensors", device="cpu", batch_size=4)


def slow_scores(model: P3D, path: Path, stride: float) -> tuple[list[float], torch.Tensor]:
    """Score every window by itself, from the frames of the indexed file."""
    prep = model.preprocessing
    assert prep.fps is not None
    with open_video(path) as video:
        transform = eval_transform(video.height, video.width, prep)
        frames, times = transform(video.read(range(video.num_frames)))[:, 0], video.times
    starts, last = [], (prep.num_frames - 1) / prep.fps
    while len(starts) * stride + last <= times[-1] + 0.002:
        starts.append(len(starts) * stride)
    clips = [frames[frames_at(times, start, prep.num_frames, prep.fps)] for start in starts]
    scorer = Scorer(model, torch.device("cpu"), batch_size=1)
    logits = torch.cat([scorer(clip[None]) for clip in clips])
    return [start + last / 2 for start in starts], logits.double().softmax(-1)


def test_scores_are_those_of_each_window_alone(predictor: Predictor) -> None:
    found = predictor.timeline("film.mp4")
    times, scores = slow_scores(predictor._load(), Path("film.mp4"), 0.08)  # type: ignore[arg-type]
    assert found.times.tolist() == pytest.approx(times)
    np.testing.assert_allclose(found.scores, scores, atol=1e-5)
    assert len(times) == 40
    assert found.duration == pytest.approx(100 / 30)
    assert np.ptp(found.scores, 0).max() > 0.1, "the network should tell windows apart"


def test_array_is_the_same_as_the_file(predictor: Predictor) -> None:
    with open_video("film.mp4") as video:
        frames = video.read(range(video.num_frames))
    expected = predictor.timeline("film.mp4", stride=0.2)
    for pixels in (frames, frames.numpy()):
        found = predictor.timeline(pixels, fps=30, stride=0.2)
        assert np.array_equal(found.scores, expected.scores)
        assert found.path is None
    with pytest.raises(UserError, match="give their rate as fps="):
        predictor.timeline(frames)
    with pytest.raises(UserError, match="fps is 0"):
        predictor.timeline(frames, fps=0)
    with pytest.raises(UserError, match="cannot be of type int"):
        predictor.timeline(3)  # type: ignore[arg-type]


def test_folder_takes_its_rate(predictor: Predictor, tmp_path: Path) -> None:
    frames = write_frames(tmp_path / "frames", 20)
    assert predictor.timeline(frames, fps=10).duration == pytest.approx(2)
    assert predictor.timeline(frames).duration == pytest.approx(0.8)


def test_video_shorter_than_a_window_has_one(predictor: Predictor) -> None:
    found = predictor.timeline("short.avi")
    assert len(found.times) == 1
    with open_video("short.avi") as video:
        frames = video.read([0, 1, 1, 1])
    assert np.array_equal(found.scores, predictor.timeline(frames, fps=25).scores)


def test_timeline_shows_itself_and_is_cut_again(predictor: Predictor) -> None:
    found = predictor.timeline("film.mp4", cut=CutOptions(high=0.35, smooth=0, shortest=0))
    assert found.segments
    assert repr(found).startswith(f"<Timeline of film.mp4: {len(found.segments)} segment")
    assert "0:00:03.333" in repr(found)
    assert found.to_csv().splitlines()[0] == "path,start,end,class,score"
    assert len(found.to_csv().splitlines()) == 1 + len(found.segments)
    assert not found.cut(CutOptions(shortest=60)).segments
    assert "<table>" in found._repr_html_()
    with pytest.raises(UserError, match="--high is 2"):
        found.cut(CutOptions(high=2))


@pytest.mark.parametrize("suffix", ["csv", "json"])
def test_files_are_those_that_detection_reads(
    suffix: str, tmp_path: Path, predictor: Predictor, capsys: pytest.CaptureFixture[str]
) -> None:
    out = tmp_path / f"out.{suffix}"
    assert timeline("film.mp4", "--out", out, "--batch-size", 4) == 0
    assert "segments in 0:00:03.333, 40 windows" in capsys.readouterr().out
    options = CutOptions(high=0.35, smooth=0, shortest=0)
    expected = predictor.timeline("film.mp4", cut=options).segments
    found = read_segments([out])
    assert [(s.label, s.video) for s in found] == [(s.label, "film") for s in expected]
    for segment, other in zip(found, expected, strict=True):
        assert (segment.start, segment.end) == pytest.approx((other.start, other.end), abs=1e-3)
        assert segment.score == pytest.approx(other.score, abs=1e-4)
    assert main(["detection", str(out), "--truth", str(out)]) == 0
    assert [path.name for path in tmp_path.iterdir()] == [out.name]


def test_same_command_goes_on(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    whole, part = tmp_path / "whole.csv", tmp_path / "part.csv"
    words = ("film.mp4", "--batch-size", 4, "--scores")
    assert timeline(*words, whole, "--out", tmp_path / "a.csv") == 0
    content = whole.read_bytes()
    header = content.index(b"\n") + 1
    row = 4 + 8 + 4 * 3
    part.write_bytes(content[: header + 11 * row + 5])  # two whole batches
    capsys.readouterr()
    scored: list[int] = []
    call = Scorer.__call__
    monkeypatch.setattr(Scorer, "__call__", lambda *a: scored.append(len(a[1])) or call(*a))
    assert timeline(*words, part, "--out", tmp_path / "b.csv") == 0
    assert sum(scored) == 40 - 8
    assert "film.mp4: goes on at" in capsys.readouterr().err
    assert part.read_bytes() == content
    assert (tmp_path / "a.csv").read_bytes() == (tmp_path / "b.csv").read_bytes()
    scored.clear()
    assert timeline(*words, part, "--merge", "2") == 0
    assert not scored
    assert timeline(*words, part, "--stride", "1") == 2
    assert "holds something else than the scores" in capsys.readouterr().err


def test_interrupted_command_goes_on(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    call, count = Scorer.__call__, 0

    def interrupted(scorer: Scorer, clips: torch.Tensor) -> torch.Tensor:
        nonlocal count
        count += 1
        if count == 4:
            raise KeyboardInterrupt
        return call(scorer, clips)

    words = ("film.mp4", "--batch-size", 4, "--out", tmp_path / "a.csv")
    with monkeypatch.context() as patch:
        patch.setattr(Scorer, "__call__", interrupted)
        assert timeline(*words) == 130
    assert [path.name for path in tmp_path.iterdir()] == [".a.csv.part"]
    assert timeline(*words) == 0
    assert "goes on at 0.9 s" in capsys.readouterr().err
    assert timeline("film.mp4", "--batch-size", 4, "--out", tmp_path / "b.csv") == 0
    assert (tmp_path / "a.csv").read_bytes() == (tmp_path / "b.csv").read_bytes()


def test_unread_videos_cost_a_line_each(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    out = tmp_path / "out.csv"
    assert timeline("bad.mp4", "short.avi", "absent.mp4", "--json", "--out", out) == 2
    printed = capsys.readouterr()
    assert [json.loads(line)["video"] for line in printed.out.splitlines()] == ["short.avi"]
    errors = [line for line in printed.err.splitlines() if "error" in line]
    assert len(errors) == 2
    assert "2 of 3 videos were not read" in printed.err
    assert out.exists()


def test_everything_is_written_at_once(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    names = ("a.eaf", "a.mp4", "a.png")
    out, annotated, picture = (tmp_path / name for name in names)
    words = ("--out", out, "--annotate", annotated, "--strip", picture)
    assert timeline("short.avi", *words) == 0
    assert sorted(path.name for path in tmp_path.iterdir()) == sorted(names)
    assert f"the video with labels is {annotated}" in capsys.readouterr().err
    frames = write_frames(tmp_path / "frames", 3)
    assert timeline(frames, *words) == 2
    assert "--annotate is for video files" in capsys.readouterr().err


def test_distant_windows_are_said(capsys: pytest.CaptureFixture[str]) -> None:
    assert timeline("film.mp4", "--stride", "1") == 0
    printed = capsys.readouterr()
    assert "--stride 1 is more than a window of 0.16 s" in printed.err
    assert "4 windows" in printed.out


def test_times_are_written_in_full() -> None:
    assert format_time(3725.0406) == "1:02:05.041"
    assert format_time(0.9996) == "0:00:01.000"


def test_a_timeline_without_segments_is_one_line() -> None:
    empty = Timeline(None, np.zeros(1), np.ones((1, 1)), ("walk",), 1.0)
    assert repr(empty) == "<Timeline of frames in memory: 0 segments in 0:00:01.000, 1 window>"
