"""The page about an evaluation: self-contained, complete, its figures those of the scores."""

from __future__ import annotations

import csv
import json
import sys
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from helpers.pages import Page, check_self_contained
from helpers.scores import random_scores, write_random
from helpers.videos import number_of, write_video
from p3d.cli import main
from p3d.errors import UserError
from p3d.evaluation.motion import compare_orders, write_motion
from p3d.inference.scoring import VideoScores
from p3d.report.page import write_evaluation_report, write_report
from p3d.report.scored import read_scored
from p3d.scores.figures import compute_figures
from p3d.scores.resampling import Bootstrap
from p3d.scores.score_file import read_score_file, write_score_file

pytest.importorskip("matplotlib", reason="matplotlib is not installed: pip install 'p3d[report]'")

NASTY = ("<b>&\"'", "$x_1$ {%s}", "走る", "two\nlines", "<script>alert(1)</script>", "=1+1")
METRICS = {
    "videos": 40, "missing": 2, "bad": ["x.avi: broken"], "trained_on": 3, "seen": 0.5,
    "weights_sha256": "0" * 64, "calibration": {"temperature": 2.5}, "seconds": 20.0,
    "clips_scored": 120, "device": "cpu (2 threads)", "precision": "bf16", "folder": "/started",
    "date": "2026-11-27T05:40:11+01:00", "command": "p3d eval --data <set> --out here",
    "options": {"split": "test", "weights": "runs/abc/best.safetensors", "data": {"data": "/hmdb"}},
}  # fmt: skip


def write_metrics(out: Path, **changes: object) -> None:
    (out / "metrics.json").write_text(json.dumps(METRICS | changes))


def report(folder: Path, temperature: float | None = None) -> Page:
    assert write_report(folder, temperature) == folder / "report.html"
    return Page(folder / "report.html")


@pytest.fixture(scope="module")
def complete(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Write scores of twelve classes with every other file of an evaluation."""
    folder = write_random(
        tmp_path_factory.mktemp("page") / "complete", classes=12, videos=60, strength=2.0
    )
    write_metrics(folder)
    top1 = compute_figures(read_score_file(folder), Bootstrap(2)).accuracy.top1
    fake_motion(folder, top1, 60)
    return folder


def fake_motion(folder: Path, top1: float, videos: int) -> None:
    header = "frames,videos,top1,mean_class,difference,low,high,lost,gained,changed"
    rows = [f"ordered,{videos},{top1:.4f},0.5,0.0,0.0,0.0,0,0,0"]
    rows += [f"reversed,{videos},0.1,0.125,-0.4321,-0.5,-0.36,27,1,31"]
    (folder / "motion.csv").write_text("\n".join([header, *rows]))


@pytest.fixture(scope="module")
def page(complete: Path) -> Page:
    return report(complete)


def test_page_is_self_contained(page: Page) -> None:
    check_self_contained(page)
    assert page.chart_titles == ["Confusion matrix", "Reliability", "Coverage"]
    assert len(page.inside["desc"]) == 3
    assert "#" not in "".join(page.inside["desc"])


def test_figures_are_those_of_the_scores(complete: Path, page: Page) -> None:
    scores = read_score_file(complete)
    figures = compute_figures(scores, Bootstrap())
    interval = figures.intervals["top5"]
    assert interval is not None
    names = ["Top-1", "Top-5", "Mean class", "Mean average precision", "Log loss"]
    assert page.inside["dt"] == [*names, "Calibration error"]
    accuracy = figures.accuracy
    assert page.inside["dd"][1] == (
        f"{accuracy.top5:.1%}95%: {interval.low:.1%} to {interval.high:.1%}"
    )
    calibrated = compute_figures(scores, Bootstrap(2), temperature=2.5)
    error = f"{calibrated.calibration_error:.1%}"
    assert page.inside["dd"][-1] == (f"{figures.calibration_error:.1%}{error} with temperature 2.5")
    assert f"{error} with temperature 2.5" in page.text
    assert "95% intervals: bootstrap over 12 groups, 2,000 draws, seed 0" in page.text
    for metrics, precision, name in zip(
        accuracy.per_class, figures.average_precision, scores.class_names, strict=True
    ):
        shown = [metrics.precision, metrics.top1, metrics.f1, precision]
        cells = "".join("—" if value is None else f"{value:.1%}" for value in shown)
        assert f"{name}{metrics.videos}{cells}" in page.inside["tr"]
    [pair, *_] = accuracy.confused_pairs
    row = f"class{pair.truth}class{pair.answer}{pair.videos}{pair.fraction:.1%}"
    assert row in page.inside["tr"]
    assert len([row for row in page.inside["tr"] if row.startswith("0.")]) == len(
        calibrated.coverage
    )


def test_the_record_of_the_evaluation_is_shown(page: Page) -> None:
    assert page.inside["h1"] == ["abc on hmdb"]
    headings = ["Classes", "Confused videos", "Probabilities", "Order of frames"]
    assert page.inside["h2"] == [*headings, "How it was measured"]
    for words in (
        "test list",
        "2026-11-27 05:40 · 60 videos · 12 classes · 3 clips a video",
        "p3d eval --data <set> --out here",
        "3 of 40 test videos were in the training list of the weights",
        "2 listed test videos do not exist",
        "The clips span 50.0% of the frames",
        "reversed 10.0% 12.5% -43.2 -50 to -36 27 1 31",
        "time 20 s clips 120 clips per second 6.0 videos per second 2.0",
        "device cpu (2 threads) precision bf16",
        f"weights runs/abc/best.safetensors SHA-256 of the weights {'0' * 64}",
        "No video could be read",
    ):
        assert words in page.text


def test_names_with_markup_are_shown_as_text(tmp_path: Path) -> None:
    folder = tmp_path / "<i>&"
    scores = random_scores(classes=len(NASTY), class_names=NASTY, strength=0.0)
    paths = tuple(f"/no/<u>{number}</u>.avi" for number in range(40))
    folder.mkdir()
    write_score_file(folder / "scores.npz", replace(scores, paths=paths))
    page = report(folder)
    check_self_contained(page)
    assert not {"b ", "i", "u", "script"} & {tag for tag, _ in page.tags}
    for name in NASTY:
        assert page.text.count(name.replace("\n", "\\n")) >= 3
    assert "<i>&" in page.inside["h1"][0]
    assert "No metrics.json of p3d eval belongs to these scores" in page.text


def test_confused_videos_have_thumbnails(tmp_path: Path) -> None:
    """The network is right about the first two videos, and wrong about the other two."""
    logits = np.array([[4, 0], [0, 4], [0, 3], [2, 0]], np.float32)[:, None]
    paths = ["right.avi", "too.avi", "start.avi", "gone.avi"]
    scores = random_scores(
        videos=4, clips=1, classes=2, logits=logits, labels=np.array([0, 1, 0, 1]),
        paths=tuple(paths), protocol={"clips": 1},
    )  # fmt: skip
    folder, started = tmp_path / "out", tmp_path / "started"
    for each in (folder, started):
        each.mkdir()
    write_video(started / "start.avi")
    write_score_file(folder / "scores.npz", scores)
    write_metrics(folder, folder=str(started))
    page = report(folder)
    [strip] = page.pictures
    frames = np.array_split(np.asarray(strip), 4, axis=1)
    assert [number_of(frame) for frame in frames] == [5, 15, 25, 35]
    captions = [" ".join(text.split()) for text in page.inside["figcaption"][1:3]]
    assert captions == [
        "class0 (4.7%) predicted as class1 95.3% start.avi",
        "class1 (11.9%) predicted as class0 88.1% gone.avi",
    ]
    assert "No thumbnail: no such file or folder" in page.text


@pytest.mark.parametrize("classes", [2, 151, 400, 401])
def test_any_number_of_classes(classes: int, tmp_path: Path) -> None:
    page = report(write_random(tmp_path / "out", classes=classes, videos=500, strength=4.0))
    check_self_contained(page)
    assert ("Confusion matrix" in page.chart_titles) == (classes <= 400)
    assert ("drawn for up to 400 classes" in page.text) == (classes > 400)
    assert ("Classes have their numbers" in page.text) == (150 < classes <= 400)
    rows = [row for row in page.inside["tr"] if "class" in row and "%" in row]
    assert len([row for row in rows if row.count("class") == 1]) == classes
    if classes > 2:
        assert "The first 50 of" in page.text


def test_without_mistakes_or_groups(tmp_path: Path) -> None:
    folder = write_random(tmp_path / "out", strength=50.0, groups=("",) * 40)
    page = report(folder)
    assert "Every video is classified correctly" in page.text
    assert "Confused videos" not in page.inside["h2"]
    assert "bootstrap over 40 videos (no groups are known)" in page.text


def test_what_belongs_to_other_scores_is_left_out(tmp_path: Path) -> None:
    folder = write_random(tmp_path / "out")
    write_metrics(folder, weights_sha256="1" * 64)
    fake_motion(folder, 0.99, 40)
    page = report(folder)
    assert page.inside["h1"] == ["out"]
    assert "Order of frames" not in page.inside["h2"]
    (folder / "motion.csv").write_text("frames,videos\nordered,x,y\n")
    assert read_scored(folder).motion == ()


def test_means_over_clips_have_no_temperature(tmp_path: Path) -> None:
    folder = write_random(tmp_path / "out", protocol={"clips": "auto", "order": "reversed"})
    write_metrics(folder)
    page = report(folder)
    assert "The scores are means over clips, which a temperature cannot divide" in page.text
    assert "The frames were reversed" in page.text
    with pytest.raises(UserError, match="--temperature 2: the scores are means over clips"):
        write_evaluation_report(folder, 2.0)


def test_a_temperature_can_be_given(complete: Path) -> None:
    assert "with temperature 0.5" in report(complete, 0.5).text
    with pytest.raises(UserError, match="--temperature is 0; give a number above 0"):
        write_report(complete, 0.0)


def test_a_run_takes_no_temperature(tmp_path: Path) -> None:
    (tmp_path / "log.jsonl").write_text("")
    with pytest.raises(UserError, match="is a training run; drop it"):
        write_report(tmp_path, 2.0)


@pytest.mark.parametrize("content", [b"", b"PK", b"not scores"])
def test_damaged_scores_are_one_line(
    content: bytes, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "scores.npz").write_bytes(content)
    assert main(["report", str(tmp_path)]) == 2
    [line] = capsys.readouterr().err.splitlines()
    assert "is not a file of p3d scores, or is damaged" in line


def test_scores_without_labels_are_an_error(tmp_path: Path) -> None:
    folder = write_random(tmp_path / "out", labels=np.full(40, -1))
    with pytest.raises(UserError, match="none of its videos has a class"):
        write_report(folder)


def test_without_matplotlib_the_message_says_what_to_install(
    complete: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setitem(sys.modules, "matplotlib", None)
    assert write_report(complete) is None
    assert "no report.html: it needs matplotlib" in capsys.readouterr().out


def test_motion_of_the_command_is_read_back(tmp_path: Path) -> None:
    """Names of columns are those that p3d eval writes."""
    folder = write_random(tmp_path / "out")
    scores = read_score_file(folder)

    def scored(logits: Any) -> VideoScores:
        return VideoScores(
            torch.from_numpy(logits), torch.from_numpy(scores.labels), torch.arange(40), ()
        )

    compared = compare_orders(
        {"ordered": scored(scores.logits), "still": scored(-scores.logits)}, scores.groups
    )
    write_motion(folder / "motion.csv", compared)
    rows = read_scored(folder).motion
    assert [row["frames"] for row in rows] == ["ordered", "still"]
    assert rows[1]["difference"] == pytest.approx(compared[1].difference, abs=1e-4)
    write_metrics(folder)
    bootstrap = f"is from a bootstrap over {compared[1].groups.count} groups"
    assert bootstrap in report(folder).text
    with (folder / "motion.csv").open(newline="") as file:
        assert set(next(csv.reader(file))) == set(rows[0])
