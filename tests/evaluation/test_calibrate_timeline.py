"""`p3d calibrate --truth`, and the commands that use what it keeps."""

from __future__ import annotations

import json
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

import p3d
from helpers.scores import write_random
from helpers.tiny_networks import CLASSES, make_blocks_few, tiny_network
from helpers.videos import write_video
from p3d.cli import main
from p3d.inference.predictor import Predictor
from p3d.inference.timeline.calibrated import calibrated_cut, kept_values
from p3d.inference.timeline.cut_options import CutOptions
from p3d.inference.timeline.scan import WindowScores
from p3d.inference.timeline.score_log import ScoreLog
from p3d.system.csv_file import write_csv
from p3d.system.files import file_sha256
from p3d.weights.metadata import save_model

SEGMENTS = [(2.0, 5.0, "walk"), (6.0, 7.0, "wave"), (9.0, 13.0, "walk"), (15.0, 16.0, "wave")]


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    root = tmp_path_factory.mktemp("calibrate")
    with pytest.MonkeyPatch.context() as patch:
        make_blocks_few(patch)
        model = tiny_network()
        model.preprocessing = replace(model.preprocessing, fps=25.0)
        model.calibration = {"temperature": 2.0, "settled": 0.9}
        save_model(model, root / "net.safetensors", recipe={"epochs": 2})
        write_video(root / "film.avi", 20)
        yield root


@pytest.fixture(autouse=True)
def _in_folder(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(folder)


def write_scores(path: Path, *videos: str, weights: str = "", is_whole: bool = True) -> Path:
    """Write scores of 18 seconds of each video, in which the true classes are hardly seen."""
    digest = weights or file_sha256(Path("net.safetensors"))
    settings = {"weights": digest, "classes": CLASSES, "videos": [[each, 1, 2] for each in videos]}
    log = ScoreLog(path, settings, len(CLASSES), 1, restart=False)
    for number in range(len(videos)):
        for time in np.arange(0.1, 18, 0.2).tolist():
            logits = np.zeros(len(CLASSES), np.float32)
            for start, end, label in SEGMENTS:
                logits[CLASSES.index(label)] += 0.9 if start <= time < end else -0.2
            log.add(number, [WindowScores(time, logits)])
        if is_whole:
            log.finish(number, 18.0)
    return path


def write_truth(path: Path, *videos: str) -> Path:
    rows = [(video, *segment) for video in videos for segment in SEGMENTS]
    write_csv(path, ("path", "start", "end", "class"), rows)
    return path


def test_what_is_fitted_is_kept_and_used(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    scores = write_scores(tmp_path / "val.scores", "x/a.mp4", "x/b.mp4")
    truth = write_truth(tmp_path / "truth.csv", "a.avi", "b.avi", "of_another_split.avi")
    target = tmp_path / "new.safetensors"
    words = ("calibrate", scores, "--truth", truth, "--weights", "net.safetensors")
    for goal, name in (("f1", "segmental F1@50"), ("map", "average mAP, tIoU 0.5 to 0.95")):
        assert main([*map(str, words), "--out", str(target), "--goal", goal]) == 0
        printed = capsys.readouterr().out
        assert "2 videos, 180 windows, 8 true segments" in printed
        assert "4 true segments of other videos left out" in printed
        assert "WARNING: fitted to 8 segments" in printed
        assert max(map(len, printed.splitlines())) <= 80 + len(str(tmp_path))
        [line] = (line for line in printed.splitlines() if line.startswith(name))
        assert line.split()[-2:] == ["0.0%", "100.0%"]
    model = p3d.load_model(target)
    cut = calibrated_cut(model.calibration)
    assert cut is not None
    assert cut.high < 0.5
    assert {"temperature": 2.0, "settled": 0.9}.items() <= model.calibration.items()
    assert model.class_names == CLASSES
    assert main(["info", str(target)]) == 0
    assert f"timeline    segments by smooth {cut.smooth:.4g}" in capsys.readouterr().out
    assert Predictor(target, device="cpu")._cut == cut


def test_timelines_are_cut_as_the_weights_say(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    model = p3d.load_model("net.safetensors")
    kept = CutOptions(smooth=0, high=0.34, low=0.3, shortest=0, merge=0)
    model.calibration |= kept_values(kept)
    save_model(model, tmp_path / "kept.safetensors")
    predictor = Predictor(tmp_path / "kept.safetensors", device="cpu")
    expected = predictor.timeline("film.avi")
    assert expected.segments
    assert expected.segments == expected.cut(kept).segments
    assert expected.segments != expected.cut(CutOptions()).segments
    words = ("timeline", "film.avi", "--device", "cpu", "--weights", tmp_path / "kept.safetensors")
    out = tmp_path / "out.json"
    assert main([*map(str, words), "--out", str(out)]) == 0
    note = "segments: smooth 0 high 0.34 low 0.3 shortest 0 merge 0 (calibrated)"
    assert note in capsys.readouterr().err
    written = json.loads(out.read_text())
    assert written["external_data"]["segments"]["high"] == 0.34
    assert len(written["results"]["film.avi"]) == len(expected.segments)
    assert main([*map(str, words), "--high", "0.9", "--json"]) == 0
    printed = capsys.readouterr()
    assert "high 0.9 low 0.3 shortest 0 merge 0 (--high given, the rest calib" in printed.err
    assert json.loads(printed.out)["segments"] == []


def test_another_temperature_drops_them(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    model = p3d.load_model("net.safetensors")
    model.calibration = kept_values(CutOptions())
    weights, target = tmp_path / "kept.safetensors", tmp_path / "new.safetensors"
    save_model(model, weights)
    digest = file_sha256(weights)
    scores = write_random(tmp_path / "s", classes=3, weights_sha256=digest)
    assert main(["calibrate", str(scores), "--weights", str(weights), "--out", str(target)]) == 0
    assert "how timelines are cut is not kept" in capsys.readouterr().out
    assert p3d.load_model(target).calibration.keys() == {"temperature"}


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (("good.scores",), "holds scores of windows; give --truth"),
        (("film.avi", "--truth", "truth.csv"), "with --truth, give a file of p3d timeline"),
        (("absent", "--truth", "truth.csv"), "with --truth, give a file of p3d timeline"),
        (("part.scores", "--truth", "truth.csv"), "a.avi is not scored to its end"),
        (("cut.scores", "--truth", "truth.csv"), "cut.scores: is damaged"),
        (("other.scores", "--truth", "truth.csv"), "holds the scores of other weights than"),
        (("twice.scores", "--truth", "truth.csv"), "y/a.avi and x/a.avi have the same name"),
        (("good.scores", "--truth", "absent.csv"), "absent.csv: "),
        (("good.scores", "--truth", "others.csv"), "has no true segment of the videos of"),
        (("good.scores", "--truth", "jump.csv"), "the network has no class 'jump'"),
        (("good.scores", "--truth", "late.csv"), "no options find a segment of late.csv"),
        (("good.scores", "--truth", "truth.csv", "--goal", "ap"), "--goal is 'ap'"),
        (("good.scores", "--truth", "truth.csv", "--out", "x.pt"), "written as .safetensors"),
    ],
)
def test_wrong_use_is_one_line(
    words: tuple[str, ...],
    message: str,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    folder: Path,
) -> None:
    good = write_scores(tmp_path / "good.scores", "a.avi").read_bytes()
    (tmp_path / "cut.scores").write_bytes(good[:60])
    write_scores(tmp_path / "part.scores", "a.avi", is_whole=False)
    write_scores(tmp_path / "other.scores", "a.avi", weights="0" * 64)
    write_scores(tmp_path / "twice.scores", "x/a.avi", "y/a.avi")
    write_truth(tmp_path / "truth.csv", "a.avi")
    write_truth(tmp_path / "others.csv", "b.avi")
    header = ("path", "start", "end", "class")
    write_csv(tmp_path / "jump.csv", header, [("a.avi", 1, 2, "jump")])
    write_csv(tmp_path / "late.csv", header, [("a.avi", 100, 200, "walk")])
    (tmp_path / "film.avi").write_bytes(b"no scores")
    monkeypatch.chdir(tmp_path)
    before = sorted(tmp_path.iterdir())
    assert main(["calibrate", *words, "--weights", str(folder / "net.safetensors")]) == 2
    [line] = capsys.readouterr().err.splitlines()
    assert message in line
    assert sorted(tmp_path.iterdir()) == before
