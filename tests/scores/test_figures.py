"""Figures of an evaluation, compared with scikit-learn and with counting."""

from __future__ import annotations

import warnings
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from helpers.scores import random_scores
from p3d.errors import UserError
from p3d.scores.average_precision import average_precision, average_precisions
from p3d.scores.calibration import log_losses
from p3d.scores.figures import compute_figures, describe_top1
from p3d.scores.resampling import Bootstrap
from p3d.scores.score_file import ScoreFile

FEW = Bootstrap(20)


@pytest.fixture(scope="module")
def sklearn_metrics() -> Any:
    """Return `sklearn.metrics`, or skip."""
    return pytest.importorskip("sklearn.metrics", reason="needs scikit-learn (extra learn)")


@st.composite
def score_files(draw: st.DrawFn) -> ScoreFile:
    """Return scores; rounded logits, so that some are equal, and classes without videos."""
    classes = draw(st.integers(2, 7))
    videos = draw(st.integers(2, 30))
    labels = draw(st.lists(st.integers(0, classes - 1), min_size=videos, max_size=videos))
    scores = random_scores(draw(st.integers(0, 99)), videos=videos, classes=classes, clips=2)
    decimals = draw(st.sampled_from((0, 1, 6)))
    return replace(scores, labels=np.array(labels), logits=np.round(scores.logits, decimals))


@settings(deadline=None, max_examples=30)
@given(scores=score_files())
def test_metrics_are_those_of_scikit_learn(sklearn_metrics: Any, scores: ScoreFile) -> None:
    figures = compute_figures(scores, FEW)
    probabilities, labels = scores.probabilities(), scores.labels
    answers, classes = probabilities.argmax(1), range(len(scores.class_names))
    accuracy = figures.accuracy
    assert accuracy.top1 == pytest.approx(sklearn_metrics.accuracy_score(labels, answers))
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # classes that are predicted but have no videos
        mean_class = sklearn_metrics.balanced_accuracy_score(labels, answers)
    assert accuracy.mean_class == pytest.approx(mean_class)
    loss = sklearn_metrics.log_loss(labels, probabilities, labels=classes)
    assert figures.loss == pytest.approx(loss, rel=1e-6)
    confusion = sklearn_metrics.confusion_matrix(labels, answers, labels=classes)
    assert np.array_equal(accuracy.confusion.numpy(), confusion)
    expected = sklearn_metrics.precision_recall_fscore_support(
        labels, answers, labels=classes, zero_division=0
    )
    found = [(m.precision or 0, m.top1 or 0, m.f1 or 0, m.videos) for m in accuracy.per_class]
    np.testing.assert_allclose(found, np.transpose(expected))
    for number, value in enumerate(figures.average_precision):
        positive = labels == number
        if value is None:
            assert not positive.any()
            continue
        expected = sklearn_metrics.average_precision_score(positive, probabilities[:, number])
        assert value == pytest.approx(expected)


@settings(deadline=None, max_examples=20)
@given(seed=st.integers(0, 999))
def test_top5_is_that_of_scikit_learn(sklearn_metrics: Any, seed: int) -> None:
    scores = random_scores(seed, classes=11, videos=33)
    expected = sklearn_metrics.top_k_accuracy_score(
        scores.labels, scores.probabilities(), k=5, labels=range(11)
    )
    assert compute_figures(scores, FEW).accuracy.top5 == pytest.approx(expected)


def test_average_precision_of_a_small_example() -> None:
    scores, positive = np.array([0.9, 0.8, 0.8, 0.1]), np.array([True, False, True, True])
    assert average_precision(scores, positive) == pytest.approx(1 / 3 + (1 / 3) * (2 / 3) + 1 / 4)
    assert average_precision(scores, ~positive) == pytest.approx(1 / 3)
    assert average_precision(scores, positive & False) is None
    assert average_precisions(np.eye(3)[[0, 1]], np.array([0, 1])) == [1.0, 1.0, None]


def test_log_losses_do_not_underflow() -> None:
    logits = np.array([[[0, 2000], [0, 1000]]], np.float32)
    scores = random_scores(videos=1, classes=2, clips=2, logits=logits, labels=np.array([0]))
    assert log_losses(scores) == pytest.approx(1000 + np.log(2))
    assert log_losses(scores, 1000.0) == pytest.approx(
        -np.log((1 / (1 + np.exp(2)) + 1 / (1 + np.e)) / 2)
    )


def test_videos_without_a_label_are_left_out() -> None:
    scores = random_scores()
    labels = scores.labels.copy()
    labels[::3] = -1
    figures = compute_figures(replace(scores, labels=labels), FEW)
    kept = scores.select(np.flatnonzero(labels >= 0))
    assert figures.unlabeled == 14
    assert figures.plain() == compute_figures(kept, FEW).plain() | {"unlabeled": 14}
    with pytest.raises(UserError, match="A: none of its videos has a class"):
        compute_figures(replace(scores, labels=np.full(40, -1)), FEW, name="A")


def test_the_temperature_divides_the_logits_of_the_clips() -> None:
    scores = random_scores()
    divided = replace(scores, logits=scores.logits / np.float32(4))
    found = compute_figures(scores, FEW, temperature=4.0).plain()
    assert found == compute_figures(divided, FEW).plain() | {"temperature": 4.0}


def test_intervals_hold_the_figures_and_depend_on_groups() -> None:
    scores = random_scores(videos=200, strength=2.5)
    by_group = compute_figures(scores, Bootstrap(500))
    for name, value in (("top1", by_group.accuracy.top1), ("loss", by_group.loss)):
        interval = by_group.intervals[name]
        assert interval is not None
        assert interval.low < value < interval.high
    assert by_group.groups.count == 40
    alone = compute_figures(replace(scores, groups=("all",) * 200), FEW)
    assert set(alone.intervals.values()) == {None}


def test_the_line_about_top1_says_what_was_resampled() -> None:
    is_right = np.arange(40) % 4 > 0
    line, warning = describe_top1(is_right, random_scores().groups).splitlines()
    assert line.endswith("(bootstrap over 8 groups)")
    assert warning == "few groups: such intervals are rough, and too narrow"
    line = describe_top1(is_right, [""] * 40)
    assert line.startswith("95% interval of top-1: 6")
    assert line.endswith("(bootstrap over 40 videos (no groups are known))")
    assert describe_top1(is_right, ["a"] * 40).startswith("no interval of top-1: 1 group ")
