"""Accuracy, compared with counting by hand."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from p3d.scores.accuracy import correct_among_best, label_ranks, measure, shows_top5

SCORES = torch.tensor(
    [
        [0.7, 0.2, 0.1],
        [0.1, 0.6, 0.3],
        [0.5, 0.3, 0.2],
        [0.2, 0.3, 0.5],
    ]
)
LABELS = torch.tensor([0, 0, 0, 1])


def test_accuracy_of_a_small_example() -> None:
    accuracy = measure(SCORES, LABELS)
    assert accuracy.videos == 4
    assert accuracy.top1 == 0.5
    assert accuracy.top5 == 1.0
    assert accuracy.mean_class == pytest.approx((2 / 3 + 0) / 2, rel=1e-15)
    assert accuracy.loss == pytest.approx(-math.log(0.7 * 0.1 * 0.5 * 0.3) / 4, rel=1e-6)
    assert accuracy.confusion.tolist() == [[2, 1, 0], [0, 0, 1], [0, 0, 0]]


def test_metrics_of_each_class_of_a_small_example() -> None:
    first, second, third = measure(SCORES, LABELS).per_class
    assert (first.videos, first.predicted) == (3, 2)
    assert (first.top1, first.precision) == (2 / 3, 1.0)
    assert first.f1 == pytest.approx(0.8)
    assert (second.videos, second.predicted) == (1, 1)
    assert (second.top1, second.precision, second.f1) == (0.0, 0.0, 0.0)
    assert (third.videos, third.predicted) == (0, 1)
    assert (third.top1, third.precision, third.f1) == (None, 0.0, 0.0)


def test_confused_pairs_are_in_order_of_size() -> None:
    answers = torch.tensor([1, 1, 0, 0, 2, 2, 1])
    truths = torch.tensor([0, 0, 0, 1, 0, 1, 1])
    pairs = measure(torch.eye(3)[answers], truths).confused_pairs
    found = [(pair.truth, pair.answer, pair.videos, pair.fraction) for pair in pairs]
    assert found == [(0, 1, 2, 0.5), (1, 0, 1, 1 / 3), (1, 2, 1, 1 / 3), (0, 2, 1, 0.25)]


def test_ties_go_to_the_class_with_the_lower_index_and_nan_is_never_right() -> None:
    scores = torch.tensor([[1.0, 1, 1], [1, 1, 1], [0, 2, 2], [2, torch.nan, 1]])
    labels = torch.tensor([0, 1, 2, 0])
    assert label_ranks(scores, labels).tolist() == [0, 1, 1, 1]
    assert label_ranks(torch.full((1, 3), torch.nan), torch.tensor([1])).tolist() == [3]
    assert correct_among_best(scores, labels, 1) == 1
    assert correct_among_best(scores, labels, 2) == 4


def _harmonic_mean(recall: float | None, precision: float | None) -> float | None:
    """Return F1 by its definition; a missing ratio counts as 0, two missing ones have no F1."""
    if recall is None and precision is None:
        return None
    total = (recall or 0) + (precision or 0)
    return 2 * (recall or 0) * (precision or 0) / total if total else 0.0


@settings(deadline=None, max_examples=40)
@given(st.data(), st.integers(1, 7))
def test_metrics_of_each_class_agree_with_counting_pairs(data: st.DataObject, classes: int) -> None:
    label = st.integers(0, classes - 1)
    pairs = data.draw(st.lists(st.tuples(label, label), min_size=1, max_size=40))
    scores = torch.eye(classes)[[answer for _, answer in pairs]]
    accuracy = measure(scores, torch.tensor([truth for truth, _ in pairs]))
    for number, found in enumerate(accuracy.per_class):
        answers = [answer for truth, answer in pairs if truth == number]
        truths = [truth for truth, answer in pairs if answer == number]
        recall = np.mean([answer == number for answer in answers]).item() if answers else None
        precision = np.mean([truth == number for truth in truths]).item() if truths else None
        assert (found.videos, found.predicted) == (len(answers), len(truths))
        assert found.top1 == pytest.approx(recall)
        assert found.precision == pytest.approx(precision)
        assert found.f1 == pytest.approx(_harmonic_mean(recall, precision))
    recalls = [found.top1 for found in accuracy.per_class if found.top1 is not None]
    assert accuracy.mean_class == pytest.approx(np.mean(recalls))


@pytest.mark.parametrize(("classes", "shown"), [(2, False), (9, False), (10, True), (400, True)])
def test_top5_is_shown_from_ten_classes(classes: int, shown: bool) -> None:
    assert shows_top5(classes) is shown


@settings(deadline=None)
@given(
    st.integers(1, 8).flatmap(
        lambda classes: st.lists(
            st.tuples(st.permutations(range(classes)), st.integers(0, classes - 1)), min_size=1
        )
    )
)
def test_accuracy_agrees_with_sorting(rows: list[tuple[list[int], int]]) -> None:
    logits = torch.tensor([ranks for ranks, _ in rows], dtype=torch.float32)
    labels = torch.tensor([label for _, label in rows])
    for k in (1, 5):
        expected = sum(
            label in sorted(range(len(ranks)), key=lambda i: -ranks[i])[:k] for ranks, label in rows
        )
        assert correct_among_best(logits, labels, k) == expected
    accuracy = measure(logits.softmax(1), labels)
    assert accuracy.top1 == correct_among_best(logits, labels, 1) / len(rows)
    assert int(accuracy.confusion.sum()) == len(rows)


def test_empty_scores_are_rejected() -> None:
    with pytest.raises(ValueError, match="do not match"):
        measure(torch.empty(0, 3), torch.empty(0, dtype=torch.int64))
