"""Accuracy against counting by hand."""

from __future__ import annotations

import math

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from p3d.evaluation.metrics import correct_among_best, measure

SCORES = torch.tensor(
    [
        [0.7, 0.2, 0.1],
        [0.1, 0.6, 0.3],
        [0.5, 0.3, 0.2],
        [0.2, 0.3, 0.5],
    ]
)
LABELS = torch.tensor([0, 0, 0, 1])


def test_measures_by_hand() -> None:
    accuracy = measure(SCORES, LABELS)
    assert accuracy.videos == 4
    assert accuracy.top1 == 0.5
    assert accuracy.top5 == 1.0
    assert accuracy.mean_class == pytest.approx((2 / 3 + 0) / 2)
    assert accuracy.loss == pytest.approx(-math.log(0.7 * 0.1 * 0.5 * 0.3) / 4, rel=1e-6)
    assert accuracy.confusion.tolist() == [[2, 1, 0], [0, 0, 1], [0, 0, 0]]
    assert accuracy.per_class == [pytest.approx(2 / 3), 0.0, None]


@given(
    st.integers(1, 8).flatmap(
        lambda classes: st.lists(
            st.tuples(st.permutations(range(classes)), st.integers(0, classes - 1)), min_size=1
        )
    )
)
def test_agrees_with_ranking_by_hand(rows: list[tuple[list[int], int]]) -> None:
    logits = torch.tensor([ranks for ranks, _ in rows], dtype=torch.float32)
    labels = torch.tensor([label for _, label in rows])
    for k in (1, 5):
        by_hand = sum(
            label in sorted(range(len(ranks)), key=lambda i: -ranks[i])[:k] for ranks, label in rows
        )
        assert correct_among_best(logits, labels, k) == by_hand
    accuracy = measure(logits.softmax(1), labels)
    assert accuracy.top1 == correct_among_best(logits, labels, 1) / len(rows)
    assert int(accuracy.confusion.sum()) == len(rows)


def test_refuses_nothing_to_measure() -> None:
    with pytest.raises(ValueError, match="do not match"):
        measure(torch.empty(0, 3), torch.empty(0, dtype=torch.int64))
