"""Two networks compared, and fused."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest

from helpers.scores import random_scores
from p3d.scores.comparison import compare
from p3d.scores.figures import compute_figures
from p3d.scores.fusion import Choice, best_choice, fuse, weigh
from p3d.scores.resampling import Bootstrap, number_groups, sign_flip_test

FEW = Bootstrap(200)
FIRST = random_scores(0, videos=120)
SECOND = random_scores(1, videos=120, strength=3.0)


def test_differences_are_those_of_the_figures() -> None:
    found = compare(FIRST, SECOND, FEW)
    ours, theirs = (compute_figures(scores, FEW) for scores in (FIRST, SECOND))
    top1, mean_class, loss = found.differences.values()
    assert (top1.first, top1.second) == pytest.approx((ours.accuracy.top1, theirs.accuracy.top1))
    assert mean_class.second == pytest.approx(theirs.accuracy.mean_class)
    assert loss.difference == pytest.approx(theirs.loss - ours.loss)
    for each in found.differences.values():
        assert each.interval is not None
        assert each.interval.low < each.difference < each.interval.high
    right = [scores.probabilities().argmax(1) == scores.labels for scores in (FIRST, SECOND)]
    assert found.first_only == (right[0] & ~right[1]).sum()
    assert found.both_right + found.second_only == right[1].sum()
    assert found.both_right + found.first_only + found.second_only + found.both_wrong == 120
    values = (right[1].astype(float) - right[0])[:, None]
    assert top1.p_value == sign_flip_test(number_groups(FIRST.groups), values)[0]
    assert top1.p_value < 0.01


def test_the_other_order_changes_the_signs() -> None:
    found, turned = compare(FIRST, SECOND, FEW), compare(SECOND, FIRST, FEW)
    for name, each in found.differences.items():
        other = turned.differences[name]
        assert each.interval is not None
        assert other.interval is not None
        assert each.difference == pytest.approx(-other.difference)
        assert each.interval == pytest.approx((-other.interval.high, -other.interval.low))
        assert each.p_value == other.p_value


def test_a_network_does_not_differ_from_itself() -> None:
    for each in compare(FIRST, FIRST, FEW).differences.values():
        assert each.p_value == 1
        assert each.interval == (0, 0)


@pytest.mark.parametrize("weight", [0.0, 0.3, 1.0])
def test_fused_scores_are_the_weighted_mean(weight: float) -> None:
    fused = fuse(FIRST, SECOND, weight, "probabilities", {})
    assert fused.problem() is None
    expected = (1 - weight) * FIRST.probabilities() + weight * SECOND.probabilities()
    np.testing.assert_allclose(fused.probabilities(), expected, rtol=1e-5)
    assert (fused.split, fused.weights_sha256, fused.starts) == ("test", "", None)
    fused = fuse(FIRST, SECOND, weight, "logits", {})
    mean = (1 - weight) * FIRST.logits.mean(1) + weight * SECOND.logits.mean(1)
    powers = np.exp(mean.astype(np.float64))
    np.testing.assert_allclose(
        fused.probabilities(), powers / powers.sum(1, keepdims=True), rtol=1e-4
    )


def test_impossible_classes_stay_finite() -> None:
    logits = np.where(np.arange(4) == 0, np.float32(0), np.float32(-2000))
    sure = replace(FIRST, logits=np.broadcast_to(logits, FIRST.logits.shape).copy())
    fused = fuse(sure, sure, 0.5, "probabilities", {})
    assert fused.problem() is None
    assert fused.probabilities()[:, 0] == pytest.approx(1)


def test_the_weight_is_the_best_on_validation() -> None:
    choices = weigh(FIRST, SECOND, "probabilities")
    assert [choice.weight for choice in choices] == pytest.approx(np.linspace(0, 1, 21).tolist())
    for choice in (choices[0], choices[-1], choices[7]):
        figures = compute_figures(fuse(FIRST, SECOND, choice.weight, "probabilities", {}), FEW)
        assert choice.top1 == pytest.approx(figures.accuracy.top1)
        assert choice.loss == pytest.approx(figures.loss, rel=1e-6)
    best = best_choice(choices)
    assert best.top1 == max(choice.top1 for choice in choices)
    tied = [Choice(0.1, 0.8, 1.0), Choice(0.4, 0.8, 0.5), Choice(0.9, 0.8, 0.5), Choice(1, 0.7, 0)]
    assert best_choice(tied) == tied[1]
