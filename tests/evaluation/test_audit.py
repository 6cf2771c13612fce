"""`p3d audit` on files of scores and features."""

from __future__ import annotations

import csv
import json
import shutil
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from helpers.pages import Page, check_self_contained
from helpers.scores import random_scores
from helpers.videos import write_video
from p3d.cli import main
from p3d.inference.feature_file import write_features
from p3d.inference.feature_index import FeatureIndex
from p3d.scores.score_file import ScoreFile, write_score_file

WRONG = (3, 17, 50)
"""Videos whose labels are wrong."""


def planted(**options: Any) -> ScoreFile:
    """Return scores of 80 videos of four classes, three of them with a wrong label."""
    scores = random_scores(videos=80, strength=40.0, **options)
    labels = scores.labels.copy()
    labels[list(WRONG)] = (labels[list(WRONG)] + 1) % 4
    return replace(scores, labels=labels)


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """Return a folder of scores."""
    (tmp_path / "test").mkdir()
    write_score_file(tmp_path / "test" / "scores.npz", planted())
    return tmp_path / "test"


def write_planted_features(path: Path, scores: ScoreFile, **changes: Any) -> Path:
    """Write features of the videos and of a training video, which is a copy of video 5."""
    rng = np.random.default_rng(0)
    values = rng.normal(size=(len(scores.paths), 2, 16)).astype(np.float32)
    values = np.concatenate([values, values[5:6] + 0.01])
    index = FeatureIndex(
        labels=(*scores.labels.tolist(), int(scores.labels[5])),
        class_names=scores.class_names,
        paths=(*scores.paths, "/set/copy.avi"),
        groups=(*scores.groups, scores.groups[5]),
        splits=("test",) * len(scores.paths) + ("train",),
        seen=(False,) * (len(scores.paths) + 1),
        bad=(),
        protocol={"layer": "pool5", "per_clip": True},
        weights_sha256="0" * 64,
    )
    write_features(path, values, replace(index, **changes))
    return path


def run(capsys: pytest.CaptureFixture[str], *command: object) -> list[str]:
    """Run p3d audit; return its output, which fits a terminal."""
    assert main(["audit", *map(str, command)]) == 0
    lines = capsys.readouterr().out.splitlines()
    folder_lines = ("written to", "page: ", str(command[0]))
    assert all(len(line) <= 80 for line in lines if not line.startswith(folder_lines))
    return lines


def error(capsys: pytest.CaptureFixture[str], *command: object) -> str:
    """Run p3d audit, which fails; return its only line."""
    assert main(["audit", *map(str, command)]) == 2
    [line] = capsys.readouterr().err.splitlines()
    return line


def test_findings_are_printed_and_written(
    folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    features = write_planted_features(tmp_path / "features.npz", planted())
    lines = run(capsys, folder, "--features", features)
    assert "3 of 80 labels look wrong:" in lines
    assert "0 pairs of videos with the same content; 1 pair nearly so, by features:" in lines
    assert "0 of 6 pairs of classes cannot be told apart" in lines
    assert any(line.startswith("same content: 81 of 81 videos are not where") for line in lines)
    audit = json.loads((folder / "audit.json").read_text())
    assert {Path(each["video"]).stem for each in audit["labels"]} == {f"v{n}" for n in WRONG}
    original = planted().labels[list(WRONG)]
    names = {each["video"]: each["class"] for each in audit["labels"]}
    assert sorted(names.values()) == sorted(f"class{k}" for k in original.tolist())
    [pair] = audit["duplicates"]
    assert (Path(pair["video"]).name, pair["other_video"]) == ("v5.avi", "/set/copy.avi")
    assert pair["across"] == "splits"
    with (folder / "audit.csv").open(newline="") as file:
        rows = list(csv.DictReader(file))
    assert [row["finding"] for row in rows] == ["label"] * 3 + ["near-duplicate"]
    assert rows[0]["other_class"] == audit["labels"][0]["looks_like"]
    assert float(rows[-1]["value"]) > 0.95


def test_the_page_has_a_section(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    pytest.importorskip("matplotlib")
    assert f"page: {folder / 'report.html'}" in run(capsys, folder / "scores.npz")
    page = Page(folder / "report.html")
    check_self_contained(page)
    assert "What looks wrong with the data" in page.inside["h2"]
    assert "3 of 80 labels look wrong" in page.inside["h3"]
    assert "Near-duplicates, and copies in other splits: not looked for" in page.text
    write_score_file(folder / "scores.npz", random_scores(1))
    assert main(["report", str(folder)]) == 0
    assert "What looks wrong with the data" not in Page(folder / "report.html").inside["h2"]


def test_names_on_the_page_are_shown_as_text(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    pytest.importorskip("matplotlib")
    names = ("<b>&", "<script>x</script>", "{{ 1 + 1 }}", "two\nlines")
    scores = planted(class_names=names)
    paths = tuple(f"/no/<u>{number}</u>.avi" for number in range(80))
    write_score_file(tmp_path / "scores.npz", replace(scores, paths=paths))
    run(capsys, tmp_path)
    page = Page(tmp_path / "report.html")
    check_self_contained(page)
    assert not {"u", "script"} & {tag for tag, _ in page.tags}
    for name in names:
        assert page.text.count(name.replace("\n", "\\n")) >= 4


def test_copies_are_found_where_the_evaluation_was_started(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    started, out = tmp_path / "started", tmp_path / "out"
    started.mkdir()
    out.mkdir()
    scores = random_scores(videos=20, classes=2, strength=40.0)
    names = tuple(f"v{number}.avi" for number in range(20))
    write_score_file(out / "scores.npz", replace(scores, paths=names))
    write_video(started / "v1.avi")
    shutil.copy(started / "v1.avi", started / "v3.avi")
    metrics = {"weights_sha256": "0" * 64, "folder": str(started), "trained_on": 4}
    (out / "metrics.json").write_text(json.dumps(metrics))
    lines = run(capsys, out)
    assert "1 pair of videos with the same content:" in lines
    assert any(line.startswith("v1.avi") and "v3.avi" in line for line in lines)
    assert "NOT HELD OUT: the network was trained on 4 videos" in " ".join(lines)


def test_a_class_that_looks_like_another_is_no_evidence(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """Classes 0 and 1 get the same scores: their videos are no suspects of each other."""
    scores = random_scores(videos=120, clips=1, classes=4, strength=20.0, group_size=3)
    logits = scores.logits.copy()
    noise = np.random.default_rng(0).normal(size=(120, 2))
    both = scores.labels < 2
    logits[both, 0, :2] = 20 + 3 * noise[both]
    write_score_file(tmp_path / "scores.npz", replace(scores, logits=logits))
    lines = run(capsys, tmp_path)
    assert "0 of 120 labels look wrong" in lines
    assert "1 of 6 pairs of classes cannot be told apart:" in lines
    assert any("more look like a class that the network cannot tell" in line for line in lines)


def test_limits_are_said(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    labels = planted().labels.copy()
    labels[labels == 2] = -1
    labels[7] = 2
    scores = replace(planted(protocol={"split": "train", "clips": 3}), labels=labels)
    write_score_file(tmp_path / "scores.npz", scores)
    text = " ".join(run(capsys, tmp_path, "--top", 1))
    assert "NOT HELD OUT: these are scores of training videos" in text
    assert "not checked: 1 class with fewer than 5 videos (class2)" in text


def test_mistakes_are_one_line(
    folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    scores = planted()
    others = tuple(f"/other/{number}.avi" for number in range(81))
    foreign = write_planted_features(tmp_path / "foreign.npz", scores, paths=others)
    assert "has features of none of the 80 scored videos (first: /set/class0/v0.avi)" in error(
        capsys, folder, "--features", foreign
    )
    renamed = write_planted_features(
        tmp_path / "renamed.npz", scores, class_names=("a", "b", "c", "d")
    )
    assert "of other classes than the scores" in error(capsys, folder, "--features", renamed)
    assert "is not a file of p3d features" in error(
        capsys, folder, "--features", folder / "scores.npz"
    )
    assert "--similarity is 2; give a number above 0" in error(capsys, folder, "--similarity", 2)
    assert "--top is 0; give 1 or more" in error(capsys, folder, "--top", 0)
    assert "0 of 4 classes have 500 videos or more" in error(capsys, folder, "--min-videos", 500)
    assert "no such file" in error(capsys, tmp_path / "absent")
    unlabeled = tmp_path / "unlabeled"
    unlabeled.mkdir()
    write_score_file(unlabeled / "scores.npz", replace(scores, labels=np.full(80, -1)))
    assert "none of its videos has a class" in error(capsys, unlabeled)
    assert not (folder / "audit.json").exists()
