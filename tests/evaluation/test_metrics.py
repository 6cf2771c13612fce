"""`p3d metrics`, `p3d compare` and `p3d fuse` on files of scores."""

from __future__ import annotations

import csv
import json
import shutil
from pathlib import Path

import numpy as np
import pytest

from helpers.disk import content, no_file_above
from helpers.scores import random_scores, write_random
from p3d.cli import main
from p3d.inference.fusion import Fusion, read_fusion
from p3d.scores.score_file import read_score_file, write_score_file


@pytest.fixture
def rgb(tmp_path: Path) -> Path:
    """Return a folder of scores on the test list."""
    return write_random(tmp_path / "rgb", 0)


@pytest.fixture
def flow(tmp_path: Path) -> Path:
    """Return the scores of a better network on the same videos."""
    return write_random(tmp_path / "flow", 1, strength=3.0, root="/flow", suffix=".mkv")


def _lines(capsys: pytest.CaptureFixture[str], *command: object) -> list[str]:
    """Run a command that succeeds; return its output, which fits a terminal."""
    assert main([*map(str, command)]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert max(map(len, lines)) <= 80
    return lines


def _error(capsys: pytest.CaptureFixture[str], *command: object) -> str:
    """Run a command that fails; return its only line."""
    assert main([*map(str, command)]) == 2
    [line] = capsys.readouterr().err.splitlines()
    return line


def test_all_figures_are_printed(
    rgb: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(rgb.parent)
    lines = _lines(capsys, "metrics", "rgb", "--top", 3)
    assert lines[0] == "rgb: 40 videos, 4 classes, 3 clips a video, test split"
    assert "intervals: bootstrap over 8 groups, 2,000 draws, seed 0" in lines
    assert "few groups: such intervals are rough, and too narrow" in lines
    assert "(1 more class: --top, or --out)" in lines
    text = "\n".join(lines)
    assert "top-5" not in text
    for title in ("mean class", "taken for", "probability of the answer", 'for "unknown"'):
        assert title in text


def test_figures_are_written(rgb: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    [line] = _lines_of_json(capsys, "metrics", rgb, "--json", "--out", tmp_path / "out")
    metrics = json.loads((tmp_path / "out" / "metrics.json").read_text())
    assert metrics == line
    scores = read_score_file(rgb)
    right = scores.probabilities().argmax(1) == scores.labels
    assert metrics["top1"] == pytest.approx(right.mean())
    assert metrics["intervals"]["top1"][0] < metrics["top1"] < metrics["intervals"]["top1"][1]
    assert [each["class"] for each in metrics["per_class"]] == list(scores.class_names)
    tables = {}
    for name in ("per_class", "confused_pairs", "reliability", "coverage", "confusion"):
        with (tmp_path / "out" / f"{name}.csv").open(newline="") as file:
            tables[name] = list(csv.DictReader(file))
    assert sum(int(row["videos"]) for row in tables["confused_pairs"]) == (~right).sum()
    assert sum(int(row["videos"]) for row in tables["reliability"]) == 40
    assert float(tables["coverage"][-1]["accuracy"]) == pytest.approx(right.mean())
    for row, each in zip(tables["per_class"], metrics["per_class"], strict=True):
        assert float(row["average_precision"]) == pytest.approx(each["average_precision"], abs=1e-4)


@pytest.mark.usefixtures("flow")
@pytest.mark.parametrize(("command", "size"), [("metrics rgb", 10_000), ("fuse rgb flow", 1000)])
def test_a_full_disk_keeps_earlier_results(
    command: str,
    size: int,
    rgb: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    pytest.importorskip("matplotlib")  # confusion.png is the largest file of p3d metrics
    monkeypatch.chdir(tmp_path)
    words = [*command.split(), "--out", "out"]
    assert main(words) == 0
    before = content(tmp_path / "out")
    shutil.rmtree(rgb)
    write_random(rgb, 2)
    capsys.readouterr()
    with no_file_above(size):
        assert "cannot be written (File too large)" in _error(capsys, *words)
    assert content(tmp_path / "out") == before


def _lines_of_json(capsys: pytest.CaptureFixture[str], *command: object) -> list[dict[str, object]]:
    assert main([*map(str, command)]) == 0
    return [json.loads(line) for line in capsys.readouterr().out.splitlines()]


def test_several_evaluations_have_a_line_each(
    rgb: Path, flow: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    header, _, *rows = _lines(capsys, "metrics", rgb, flow / "scores.npz")
    assert header.split() == [
        "scores",
        "videos",
        "top-1",
        "95%",
        "interval",
        "class",
        "loss",
        "ECE",
    ]
    assert rows[0].startswith("…")
    assert rows[1].split()[0].endswith("flow/scores.npz")
    assert len(_lines_of_json(capsys, "metrics", rgb, flow, "--json")) == 2


def test_folds_are_measured_together(
    rgb: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    scores = read_score_file(rgb)
    for fold in range(2):
        (tmp_path / f"fold{fold}").mkdir()
        part = scores.select(np.arange(fold, 40, 2))
        write_score_file(tmp_path / f"fold{fold}" / "scores.npz", part)
    folds = [tmp_path / f"fold{fold}" for fold in range(2)]
    [whole] = _lines_of_json(capsys, "metrics", rgb, "--json")
    [pooled] = _lines_of_json(capsys, "metrics", *folds, "--pool", "--json")
    assert pooled["top1"] == whole["top1"]
    shutil.copytree(folds[0], tmp_path / "again")
    message = _error(capsys, "metrics", *folds, tmp_path / "again", "--pool")
    assert f"/set/class0/v0.avi is in {folds[0]} and in {tmp_path / 'again'};" in message


def test_folds_that_hold_means_have_no_temperature(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    folds = [tmp_path / f"fold{fold}" for fold in range(2)]
    for fold in folds:
        write_random(
            fold, clips=1, root=f"/{fold.name}", protocol={"split": "test", "clips": "auto"}
        )
    lines = _lines(capsys, "metrics", *folds, "--pool")
    assert lines[0] == "2 folders together: 80 videos, 4 classes, means over clips, test split"
    message = _error(capsys, "metrics", *folds, "--pool", "--temperature", 2)
    assert "--temperature 2: 2 folders together holds means over clips" in message


@pytest.mark.usefixtures("flow")
def test_differences_are_printed(
    rgb: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(rgb.parent)
    lines = _lines(capsys, "compare", "rgb", "flow")
    assert lines[0] == "first: rgb: 40 videos, 4 classes, 3 clips a video, test split"
    [row] = [line.split() for line in lines if line.startswith("top-1")]
    first, second, difference = (float(cell.strip("%+")) for cell in row[1:4])
    assert second - first == pytest.approx(difference, abs=0.11)
    assert "p: two-sided permutation test, signs of 8 groups; at least 0.0078" in lines
    plain = _lines_of_json(capsys, "compare", "rgb", "flow", "--json")
    assert plain[0]["differences"]["top1"]["difference"] == pytest.approx(
        (second - first) / 100, abs=1e-3
    )


@pytest.mark.usefixtures("rgb", "flow")
def test_fused_scores_are_scores(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    for name, seed, strength in (("val0", 0, 1.0), ("val1", 1, 3.0)):
        protocol, root = {"split": "validation"}, f"/{name}"
        write_random(
            tmp_path / name, seed, videos=20, root=root, strength=strength, protocol=protocol
        )
    command = ("fuse", "rgb", "flow", "--out", "fused", "--validation", "val0", "val1")
    lines = _lines(capsys, *command, "--mean", "logits")
    assert lines[0].startswith("validation: top-1 ")
    [line] = [line for line in lines if "(the best of 21 in validation)" in line]
    fused = read_score_file(tmp_path / "fused")
    assert f"mean of logits, weight of the second {fused.protocol['weight']:g} (" in line
    assert [each["weights_sha256"][0] for each in fused.protocol["streams"]] == ["0", "1"]
    hashes = [each["weights_sha256"] for each in fused.protocol["streams"]]
    expected = Fusion(fused.protocol["weight"], "logits")
    assert read_fusion(tmp_path / "fused", (hashes[0], hashes[1])) == expected
    [metrics] = _lines_of_json(capsys, "metrics", "fused", "--json")
    [row] = [line.split() for line in lines if line.startswith("fused")]
    assert row[1] == f"{metrics['top1']:.1%}"
    assert any("fused scores" in line for line in _lines(capsys, "compare", "rgb", "fused"))
    plain = _lines(capsys, "fuse", "rgb", "flow")
    assert "mean of probabilities, weight of the second 0.5 (the default)" in plain


@pytest.mark.parametrize(
    ("command", "message"),
    [
        ("metrics", "no scores were given; give a folder that p3d eval wrote to"),
        ("metrics gone", "gone: no such file; p3d eval --out writes it"),
        ("metrics .", "scores.npz: no such file; p3d eval --out writes it"),
        ("metrics rgb rgb/scores.npz", "rgb/scores.npz: is given twice"),
        ("metrics rgb --out rgb", "--out rgb: holds the files of p3d eval"),
        ("metrics rgb flow --out new", "--out takes the figures of one folder"),
        ("metrics rgb --temperature 0", "--temperature is 0.0; give a number above 0"),
        ("metrics rgb --bins 0", "--bins is 0; give 1 or more"),
        ("metrics rgb --seed -1", "--seed is -1; give 0 or more"),
        ("compare rgb", "give two or more folders of scores"),
        ("compare rgb flow --resamples 0", "--resamples is 0; give 1 or more"),
        ("compare rgb other", "other lacks 1 video of rgb (first: /set/class0/v0.avi)"),
        ("compare rgb classes", "have the same classes in another order"),
        ("fuse rgb", "1 folder of scores given; p3d fuse takes two"),
        ("fuse rgb flow --weight 2", "--weight is 2.0; give a number from 0 to 1"),
        ("fuse rgb flow --out flow", "--out flow: holds one of the inputs"),
        ("fuse rgb flow --weight 1 --validation rgb flow", "--weight and --validation exclude"),
        ("fuse rgb flow --validation rgb flow", "--validation rgb: holds test scores"),
        ("fuse rgb flow --validation same flow", "has videos that are fused, such as /set/"),
        ("fuse rgb flow --validation weights flow", "of other weights than rgb"),
        ("fuse rgb other", "score both networks on the same videos"),
    ],
)
def test_wrong_use_is_one_line(
    command: str,
    message: str,
    rgb: Path,
    flow: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    assert rgb.parent == flow.parent
    monkeypatch.chdir(tmp_path)
    validation = {"protocol": {"split": "validation"}}
    write_random(tmp_path / "other")
    scores = random_scores(0)
    write_score_file(tmp_path / "other" / "scores.npz", scores.select(np.arange(1, 40)))
    write_random(tmp_path / "classes", 0, class_names=scores.class_names[::-1])
    write_random(tmp_path / "same", 0, **validation)
    write_random(tmp_path / "weights", 5, root="/validation", **validation)
    assert message in _error(capsys, *command.split())


def test_nan_scores_are_an_error(rgb: Path, capsys: pytest.CaptureFixture[str]) -> None:
    with np.load(rgb / "scores.npz") as arrays:
        kept = dict(arrays)
    kept["logits"][3, 1, 2] = np.nan
    np.savez(rgb / "scores.npz", **kept)
    assert "the scores of /set/class1/v3.avi are not finite numbers" in _error(
        capsys, "metrics", rgb
    )
