"""The tables of the ablation, from scores that are known."""

from __future__ import annotations

import argparse
import json
from pathlib import Path

import ablation
import numpy as np
import pytest
from scipy.stats import t

from p3d.scores.score_file import ScoreFile, write_score_file

CLASSES = ("MoveLeft", "MoveRight", "ZoomIn", "ZoomOut")


def write_scores(folder: Path, right: list[bool]) -> None:
    """Write the scores of two groups of each class; a wrong answer is the next class."""
    labels = np.repeat(np.arange(4), 2)
    answers = np.where(right, labels, (labels + 1) % 4)
    logits = np.eye(4, dtype=np.float32)[answers][:, None]
    names = [f"{CLASSES[label]}_g{number}" for label in labels[::2] for number in (34, 35)]
    folder.mkdir(parents=True)
    write_score_file(
        folder / "scores.npz",
        ScoreFile(logits, labels, CLASSES, tuple(names), tuple(names), {}, ""),
    )


@pytest.fixture
def tables(tmp_path: Path) -> list[list[str]]:
    """Return the rows of the tables of two seeds, of which the second has more right."""
    for variant in ablation.VARIANTS:
        for seed, count in ((1, 4), (2, 8 if variant == "ABC" else 5)):
            run = tmp_path / f"{variant}-{seed}"
            write_scores(run / "test", [video < count for video in range(8)])
            for order in ablation.ORDERS[1:]:
                write_scores(run / "test" / order, [order == "shuffled"] * 8)
            (run / ablation.DONE).touch()
    (tmp_path / "ABC-3").mkdir()  # not evaluated yet
    cost = {"parameters": 1.5e6, "mb": 6.0, "clips_per_second": 2.0}
    (tmp_path / "costs.json").write_text(json.dumps(dict.fromkeys(ablation.VARIANTS, cost)))
    ablation.write_tables(argparse.Namespace(out=tmp_path, seeds=3))
    text = (tmp_path / "ablation.md").read_text()
    assert "2 seeds, 8 test videos in 4 groups" in text
    return [line.strip("| ").split(" | ") for line in text.splitlines() if line.startswith("| ")]


def test_tables_have_the_means_of_the_seeds(tables: list[list[str]]) -> None:
    rows = {row[0]: row[1:] for row in tables}
    assert rows["A"][:4] == ["1.5 M", "6", "2.00", "56.2"]
    assert rows["A"][-3] == "-18.8"
    assert rows["A"][-1] == "50.0 62.5"
    assert rows["ABC"][3] == "75.0"
    assert rows["ABC, reversed"][0] == "0.0"
    assert rows["2d, shuffled"][0] == "100.0"
    assert rows["2d, shuffled"][2] == "+43.8"


def test_interval_over_seeds_is_that_of_student() -> None:
    rates = [0.5, 0.7, 0.6]
    low, high = t.interval(0.95, 2, np.mean(rates), np.std(rates, ddof=1) / 3**0.5)
    assert ablation.interval_over_seeds(rates) == f"{100 * low:.1f} to {100 * high:.1f}"
    assert ablation.interval_over_seeds([0.5]) == ""
    assert pytest.approx(t.ppf(0.975, np.arange(1, 10)), abs=5e-4) == ablation.T_975


def test_partner_classes_share_their_scenes(tmp_path: Path) -> None:
    write_scores(tmp_path / "test", [True] * 8)
    scenes = ablation.scenes(ablation.read_score_file(tmp_path / "test"))
    assert scenes == ["sideways g34", "sideways g35"] * 2 + ["zoom g34", "zoom g35"] * 2
