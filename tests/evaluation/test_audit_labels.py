"""Labels that look wrong: against a straight-line computation, and with wrong labels planted."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from helpers.scores import random_scores
from p3d.errors import UserError
from p3d.evaluation.audit_labels import audit_labels, checked_classes
from p3d.scores.arrays import Floats, Integers


def confident_learning(p: Floats, labels: Integers) -> dict[int, tuple[int, float]]:
    """Return suggestion and margin of each suspect, as equations 1 and 2 of the paper say."""
    classes = range(p.shape[1])
    thresholds = {}
    for j in classes:
        own = [p[x, j] for x in range(len(p)) if labels[x] == j]
        thresholds[j] = sum(own) / len(own)
    found = {}
    for x in range(len(p)):
        above = [j for j in classes if p[x, j] >= thresholds[j] - 1e-9]
        if not above:
            continue
        best = above[0]
        for j in above:
            if p[x, j] > p[x, best]:
                best = j
        margin = p[x, best] - p[x, labels[x]]
        if best != labels[x] and margin > 0:
            found[x] = (best, margin)
    return found


@given(st.integers(0, 2**32), st.integers(2, 6), st.sampled_from([1.0, 0.1]), st.booleans())
@settings(max_examples=60, deadline=None)
def test_suspects_are_those_of_a_plain_computation(
    seed: int, classes: int, spread: float, rounded: bool
) -> None:
    rng = np.random.default_rng(seed)
    p = rng.dirichlet(np.full(classes, spread), size=60)
    p = p.round(1) if rounded else p  # with equal probabilities
    labels = rng.permutation(np.arange(60) % classes)
    audit = audit_labels(p, labels, np.arange(classes))
    expected = confident_learning(p, labels)
    assert {each.video: each.suggestion for each in audit.suspects} == {
        video: suggestion for video, (suggestion, _) in expected.items()
    }
    margins = [each.margin for each in audit.suspects]
    assert margins == sorted(margins, reverse=True)
    for each in audit.suspects:
        assert each.margin == pytest.approx(expected[each.video][1])
        assert each.probability == p[each.video, labels[each.video]]
    assert audit.checked == 60


@pytest.mark.parametrize(
    ("strength", "accuracy", "precision", "recall"),
    [(14.0, 0.99, 0.97, 0.95), (9.0, 0.9, 0.7, 0.8)],
)
def test_planted_labels_are_found(
    strength: float, accuracy: float, precision: float, recall: float
) -> None:
    """A tenth of the labels is replaced by another class."""
    scores = random_scores(videos=1000, clips=1, classes=20, strength=strength)
    p, labels = scores.probabilities(), scores.labels
    assert (p.argmax(1) == labels).mean() > accuracy
    rng = np.random.default_rng(1)
    is_wrong = rng.random(1000) < 0.1
    shifted = (labels + rng.integers(1, 20, 1000)) % 20
    audit = audit_labels(p, np.where(is_wrong, shifted, labels), np.arange(20))
    found = np.array([each.video for each in audit.suspects])
    hits = is_wrong[found].sum()
    assert hits / len(found) > precision
    assert hits / is_wrong.sum() > recall
    right = [labels[each.video] == each.suggestion for each in audit.suspects]
    assert np.mean(right) > precision - 0.05


def test_classes_with_few_videos_are_not_checked() -> None:
    p = np.array([[0.9, 0.1, 0.0]] * 3 + [[0.1, 0.9, 0.0]] * 3 + [[0.0, 0.1, 0.9], [0.9, 0.1, 0.0]])
    labels = np.array([0, 0, 0, 1, 1, 1, 2, 2])
    classes = checked_classes(labels, 3, 3)
    assert classes.tolist() == [0, 1]
    audit = audit_labels(p, labels, classes)
    assert audit.suspects == ()
    assert audit.checked == 6
    assert np.isinf(audit.thresholds[2])
    with pytest.raises(UserError, match=r"0 of 3 classes have 4 videos or more \(the largest has"):
        checked_classes(labels, 3, 4)
