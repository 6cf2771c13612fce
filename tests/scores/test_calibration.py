"""Reliability, temperature and coverage."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from helpers.scores import random_scores
from p3d.errors import UserError
from p3d.scores.calibration import (
    calibration_error,
    fit_temperature,
    log_losses,
    reliability,
)
from p3d.scores.coverage import area_of_errors, coverage_curve, coverage_table
from p3d.scores.resampling import Bootstrap, number_groups

answers = st.lists(
    st.tuples(st.integers(0, 60).map(lambda n: n / 60), st.booleans()), min_size=1, max_size=40
).map(lambda rows: tuple(np.array(column) for column in zip(*rows, strict=True)))


@settings(deadline=None, max_examples=40)
@given(drawn=answers, bins=st.sampled_from((1, 4, 10, 15)))
def test_reliability_is_that_of_scikit_learn(drawn: Any, bins: int) -> None:
    calibration = pytest.importorskip("sklearn.calibration", reason="needs scikit-learn")
    confidence, is_right = drawn
    accuracy, mean = calibration.calibration_curve(
        [*is_right, True, False], [*confidence, 0.0, 1.0], n_bins=bins
    )
    table = reliability(np.append(confidence, [0, 1]), np.append(is_right, [True, False]), bins)
    np.testing.assert_allclose([each.accuracy for each in table], accuracy)
    np.testing.assert_allclose([each.confidence for each in table], mean)
    assert sum(each.videos for each in table) == len(confidence) + 2


def test_calibration_error_of_a_small_example() -> None:
    confidence, is_right = np.array([0.5, 0.4, 1.0, 0.9]), np.array([1, 0, 1, 0]) > 0
    table = reliability(confidence, is_right, 2)
    assert [(each.low, each.high, each.videos) for each in table] == [(0, 0.5, 2), (0.5, 1, 2)]
    assert calibration_error(table) == pytest.approx((0.05 + 0.45) / 2)


@settings(deadline=None, max_examples=40)
@given(drawn=answers)
def test_coverage_is_what_each_threshold_gives(drawn: Any) -> None:
    confidence, is_right = drawn
    curve = coverage_curve(confidence, is_right)
    assert [each.threshold for each in curve] == sorted(set(confidence.tolist()), reverse=True)
    for each in [*curve, *coverage_table(confidence, is_right)]:
        answered = confidence >= each.threshold
        assert each.answered == answered.sum()
        assert each.coverage == pytest.approx(answered.mean())
        assert each.accuracy == pytest.approx(is_right[answered].mean())
    assert curve[-1].coverage == 1
    assert 0 <= area_of_errors(curve) <= 1


def test_area_of_errors_of_a_small_example() -> None:
    confidence = np.array([0.9, 0.8, 0.7, 0.6])
    right, wrong = np.array([1, 1, 1, 0]) > 0, np.array([0, 1, 1, 1]) > 0
    assert area_of_errors(coverage_curve(confidence, right)) == pytest.approx(1 / 16)
    assert area_of_errors(coverage_curve(confidence, wrong)) == pytest.approx(
        (1 + 1 / 2 + 1 / 3 + 1 / 4) / 4
    )


def test_thresholds_of_the_table_have_three_digits() -> None:
    confidence = np.array([0.12345, 0.55555, 0.99999])
    table = coverage_table(confidence, confidence > 0.5, (1.0, 2 / 3, 1 / 3))
    assert [each.threshold for each in table] == [0.0, 0.555, 0.999]
    assert [each.answered for each in table] == [3, 2, 1]


@pytest.mark.parametrize("temperature", [0.4, 1.0, 3.0])
def test_the_temperature_that_made_the_labels_is_found(temperature: float) -> None:
    """Labels are drawn from the probabilities at a temperature."""
    scores = random_scores(videos=4000, clips=1)
    probabilities = scores.probabilities(temperature)
    draws = np.random.default_rng(1).random((4000, 1))
    labels = (probabilities.cumsum(1) < draws).sum(1)
    scores = replace(scores, labels=labels)
    fit = fit_temperature(scores, number_groups([""] * 4000), Bootstrap(100))
    assert fit.temperature == pytest.approx(temperature, rel=0.1)
    assert fit.interval is not None
    assert fit.interval.low / 1.06 < temperature < fit.interval.high * 1.06
    assert fit.loss_after <= fit.loss_before


def test_the_temperature_has_the_lowest_loss() -> None:
    """Compared with Newton's method on the loss, by PyTorch's derivatives."""
    scores = random_scores(clips=3)
    fit = fit_temperature(scores, number_groups(scores.groups), Bootstrap(10))
    logits = torch.from_numpy(scores.logits).double()
    labels = torch.from_numpy(scores.labels)[:, None]

    def loss(logarithm: torch.Tensor) -> torch.Tensor:
        means = (logits / logarithm.exp()).softmax(-1).mean(1)
        return -means.gather(1, labels).log().mean()

    point = torch.tensor(fit.temperature, dtype=torch.float64).log()
    gradient = torch.autograd.functional.jacobian(loss, point)
    curvature = torch.autograd.functional.hessian(loss, point)
    assert curvature > 0
    assert abs(gradient / curvature) < 1e-6
    assert fit.loss_after == pytest.approx(float(loss(point)))
    assert fit.loss_before == pytest.approx(log_losses(scores).mean())


@pytest.mark.parametrize(("strength", "message"), [(60, "all right"), (-60, "than chance")])
def test_without_a_best_temperature_there_is_an_error(strength: float, message: str) -> None:
    scores = random_scores(strength=strength)
    with pytest.raises(UserError, match=f"no temperature .* 40 videos: its answers .*{message}"):
        fit_temperature(scores, number_groups(scores.groups), Bootstrap(2))
