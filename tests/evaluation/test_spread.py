"""Mean and spread over several networks."""

from __future__ import annotations

import csv
from pathlib import Path

import numpy as np
import torch

from p3d.evaluation.spread import spread_table, write_spread
from p3d.scores.accuracy import Accuracy, measure


def accuracies() -> dict[str, Accuracy]:
    scores = torch.eye(4).repeat(5, 1)
    labels = [torch.arange(20) % 4 for _ in range(3)]
    labels[1][:3] = torch.tensor([1, 2, 3])
    labels[2][:6] = 0
    return {f"split{n}": measure(scores, each) for n, each in enumerate(labels, 1)}


def test_mean_and_spread_are_those_of_numpy(tmp_path: Path) -> None:
    measured = accuracies()
    write_spread(tmp_path / "runs.csv", measured)
    with (tmp_path / "runs.csv").open(newline="") as file:
        *rows, mean, std = csv.DictReader(file)
    assert [row["run"] for row in rows] == ["split1", "split2", "split3"]
    assert [row["videos"] for row in (*rows, mean)] == ["20", "20", "20", ""]
    top1 = [accuracy.top1 for accuracy in measured.values()]
    assert float(mean["top1"]) == np.round(np.mean(top1), 5)
    assert float(std["top1"]) == np.round(np.std(top1, ddof=1), 5)


def test_table_leaves_out_top5_of_few_classes() -> None:
    assert "top-5" not in spread_table(accuracies(), 4)
    table = spread_table(accuracies(), 101).splitlines()
    assert table[0].split() == ["run", "videos", "top-1", "top-5", "mean", "class"]
    assert table[5].split()[:3] == ["mean", "88.3%", "100.0%"]
    assert "over the 3 runs" in table[-1]
