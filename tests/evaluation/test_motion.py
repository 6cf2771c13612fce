"""Scores of frames in another order, compared with those in order."""

from __future__ import annotations

import csv
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from p3d.data.views import FrameOrder
from p3d.evaluation.motion import compare_orders, motion_table, write_motion
from p3d.inference.scoring import VideoScores
from p3d.model.network import create_model
from p3d.scores.comparison import compare
from p3d.scores.resampling import Bootstrap
from p3d.scores.score_file import ScoreFile

pytestmark = pytest.mark.usefixtures("narrow_networks")

answers = st.lists(st.tuples(*[st.integers(0, 2)] * 3), min_size=1, max_size=40)


def scores_of(answers: list[int], labels: list[int], indices: list[int]) -> VideoScores:
    """Return scores of one clip a video that give these answers."""
    logits: Tensor = 5.0 * torch.nn.functional.one_hot(torch.tensor(answers), 3)
    return VideoScores(logits[:, None], torch.tensor(labels), torch.tensor(indices), ())


@settings(max_examples=40, deadline=None)
@given(answers)
def test_counts_are_those_of_the_videos(triples: list[tuple[int, int, int]]) -> None:
    labels, before, now = (list(column) for column in zip(*triples, strict=True))
    indices = list(range(len(labels)))
    ordered, still = compare_orders(
        {
            "ordered": scores_of(before, labels, indices),
            "still": scores_of(now, labels, indices),
        },
        [""] * len(labels),
    )
    assert (ordered.lost, ordered.gained, ordered.changed, ordered.difference) == (0, 0, 0, 0)
    pairs = [(a == label, b == label) for label, a, b in triples]
    assert still.lost == pairs.count((True, False))
    assert still.gained == pairs.count((False, True))
    assert still.changed == sum(a != b for _, a, b in triples)
    difference = still.accuracy.top1 - ordered.accuracy.top1
    assert still.difference == pytest.approx(difference)
    if len(labels) < 2:
        assert still.interval is None
    else:
        low, high = still.interval
        assert -1 <= low <= high <= 1


def test_videos_that_one_order_cannot_read_are_left_out() -> None:
    _, still = compare_orders(
        {
            "ordered": scores_of([0, 1, 2], [0, 1, 1], [0, 2, 5]),
            "still": scores_of([2, 0, 1, 1], [0, 2, 1, 1], [0, 1, 2, 5]),
        },
        ["a", "x", "b", "x", "x", "b"],
    )
    assert still.groups.describe() == "2 groups"
    assert still.accuracy.videos == 3
    assert (still.lost, still.gained, still.changed) == (1, 1, 2)


def test_intervals_are_those_of_a_comparison_over_groups() -> None:
    rng = np.random.default_rng(0)
    labels, before, now = rng.integers(3, size=(3, 60)).tolist()
    groups = [str(index // 5) for index in range(60)]
    found = [scores_of(answers, labels, list(range(60))) for answers in (before, now)]
    _, still = compare_orders({"ordered": found[0], "still": found[1]}, groups)
    files = [
        ScoreFile(
            each.logits.numpy(),
            each.labels.numpy(),
            ("a", "b", "c"),
            tuple(map(str, range(60))),
            tuple(groups),
            {},
            "",
        )
        for each in found
    ]
    top1 = compare(files[0], files[1], Bootstrap()).differences["top1"]
    assert still.interval == pytest.approx(top1.interval)
    assert still.difference == pytest.approx(top1.difference)


def test_table_and_file_have_a_line_for_each_order(tmp_path: Path) -> None:
    orders: tuple[FrameOrder, ...] = ("ordered", "reversed", "shuffled", "still")
    labels = np.arange(300) % 3
    scored = {
        order: scores_of(((labels + shift) % 3).tolist(), labels.tolist(), list(range(300)))
        for shift, order in enumerate(orders)
    }
    results = compare_orders(scored, [f"group {index // 3}" for index in range(300)])
    lines = motion_table(results).splitlines()
    assert max(map(len, lines)) <= 80
    assert lines[2].split() == ["ordered", "100.0%", "100.0%"]
    assert lines[3].split()[:4] == ["reversed", "0.0%", "0.0%", "-100.0"]
    assert lines[3].split()[-3:] == ["300", "0", "300"]
    assert lines[5].split()[-3:] == ["0", "0", "0"]
    write_motion(tmp_path / "motion.csv", results)
    with (tmp_path / "motion.csv").open(newline="") as file:
        rows = list(csv.DictReader(file))
    assert [row["frames"] for row in rows] == list(orders)
    assert [row["lost"] for row in rows] == ["0", "300", "300", "0"]
    assert rows[1]["difference"] == "-1.0"
    assert {row["groups"] for row in rows} == {"100"}


def test_a_network_without_temporal_convolutions_cannot_notice_reversed_frames() -> None:
    torch.manual_seed(0)
    clips = torch.rand(2, 3, 16, 32, 32)
    for variant, notices in (("2d", False), ("ABC", True)):
        model = create_model("p3d63", num_classes=3, variant=variant).eval()
        with torch.no_grad():
            difference = (model(clips) - model(clips.flip(2))).abs().max()
        assert (difference > 1e-4) == notices
