"""Scores of the same videos in one order, and of different videos together."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import numpy as np
import pytest

from helpers.scores import random_scores
from p3d.errors import UserError
from p3d.scores.alignment import Named, align, pool

SCORES = random_scores()


def _align(**changes: Any) -> None:
    align(Named("A", SCORES), Named("B", replace(SCORES, **changes)))


def test_pictures_and_flow_of_a_video_belong_together() -> None:
    flow = random_scores(1, root="/elsewhere/flow", suffix=".mkv")
    shuffled = flow.select(np.random.default_rng(0).permutation(40))
    aligned = align(Named("A", SCORES), Named("B", shuffled))
    assert aligned.paths == flow.paths
    assert np.array_equal(aligned.logits, flow.logits)


def test_equal_file_names_are_told_apart_by_their_folders() -> None:
    paths = tuple(f"/set/person{i}/walk.avi" for i in range(40))
    moved = tuple(f"/moved/person{i}/walk.mkv" for i in reversed(range(40)))
    labels = np.zeros(40, np.int64)
    ours = replace(SCORES, paths=paths, labels=labels)
    theirs = replace(SCORES, paths=moved, labels=labels)
    assert align(Named("A", ours), Named("B", theirs)).paths == moved[::-1]


NAMES = SCORES.class_names


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"class_names": NAMES[::-1]}, "A and B have the same classes in another order"),
        ({"class_names": (*NAMES[:3], "x")}, "have other classes: 'class3' and 'x'"),
        ({"class_names": NAMES[:3]}, "A and B have 4 and 3 classes"),
        ({"protocol": {"split": "train"}}, "A and B are of the splits test and train"),
        (
            {"paths": (*SCORES.paths[:-1], "other.avi")},
            r"B lacks 1 video of A \(first: /set/class1/v39.avi\); A lacks 1 video of B "
            r"\(first: other.avi\); score both",
        ),
        ({"labels": SCORES.labels[::-1].copy()}, r"/set/class0/v0.avi has another class in B"),
    ],
)
def test_scores_that_do_not_belong_together_are_an_error(
    changes: dict[str, Any], message: str
) -> None:
    with pytest.raises(UserError, match=message):
        _align(**changes)


def test_folds_are_pooled() -> None:
    parts = [SCORES.select(np.arange(start, 40, 2)) for start in (0, 1)]
    pooled = pool([Named("A", parts[0]), Named("B", parts[1])])
    assert pooled.problem() is None
    assert sorted(pooled.paths) == sorted(SCORES.paths)
    assert pooled.weights_sha256 == SCORES.weights_sha256
    assert pooled.split == "test"
    assert pooled.starts is not None
    other = replace(parts[1], weights_sha256="f" * 64, starts=None, times=None)
    pooled = pool([Named("A", parts[0]), Named("B", other)])
    assert (pooled.weights_sha256, pooled.starts) == ("", None)


def test_pooled_means_are_still_means() -> None:
    means = replace(random_scores(clips=1), protocol={"split": "test", "clips": "auto"})
    whole = replace(means, protocol={"split": "test", "clips": 1})
    parts = [means.select(np.arange(20)), means.select(np.arange(20, 40))]
    assert pool([Named("A", parts[0]), Named("B", parts[1])]).holds_means
    single = whole.select(np.arange(20, 40))
    assert pool([Named("A", parts[0]), Named("B", single)]).holds_means
    assert not pool([Named("A", whole.select(np.arange(20))), Named("B", single)]).holds_means


def test_folds_that_claim_the_same_video_are_an_error() -> None:
    with pytest.raises(UserError, match=r"/set/class0/v0.avi is in A and in B; a video is scored"):
        pool([Named("A", SCORES), Named("B", SCORES)])
    with pytest.raises(UserError, match="A and B have 3 and 1 clips a video"):
        pool([Named("A", SCORES), Named("B", random_scores(clips=1))])
