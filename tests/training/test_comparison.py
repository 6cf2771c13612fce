"""Best against last: paired answers, and the interval of their difference."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from p3d.training.comparison import (
    answers_of,
    compare_answers,
    describe_difference,
    difference_interval,
)


def test_answers_are_in_the_order_of_the_list() -> None:
    probabilities = torch.tensor([[0.1, 0.9], [0.8, 0.2], [0.3, 0.7]])
    answers = answers_of(probabilities, torch.tensor([1, 1, 1]), torch.tensor([3, 0, 2]), 5)
    assert answers == "0-11-"


@given(
    answers=st.lists(st.tuples(st.sampled_from("01-"), st.sampled_from("01-")), max_size=40),
)
def test_answers_are_compared_on_the_videos_that_both_read(answers: list[tuple[str, str]]) -> None:
    best, last = ("".join(pair[i] for pair in answers) for i in (0, 1))
    read = [pair for pair in answers if "-" not in pair]
    compared = compare_answers(best, last)
    assert (compared is None) == (not read)
    if compared is not None:
        videos, only_best, only_last = compared
        assert videos == len(read)
        assert only_best - only_last == sum(int(one) - int(other) for one, other in read)
        assert only_best + only_last == sum(one != other for one, other in read)


def test_answers_for_other_lists_are_not_compared() -> None:
    assert compare_answers("", "101") is None
    assert compare_answers("10", "101") is None


def coverage(videos: int, only_best: float, only_last: float) -> float:
    """Return the exact probability that the interval contains the true difference.

    All outcomes of the trinomial distribution are enumerated.

    Args:
        videos: Number of videos.
        only_best: Probability that only the best network answers a video right.
        only_last: Probability that only the last one does.
    """
    both = 1 - only_best - only_last
    total = 0.0
    for first in range(videos + 1):
        for second in range(videos + 1 - first):
            low, high = difference_interval(videos, first, second)
            if low <= only_best - only_last <= high:
                rest = videos - first - second
                ways = math.comb(videos, first) * math.comb(videos - first, second)
                total += ways * only_best**first * only_last**second * both**rest
    return total


@pytest.mark.parametrize("videos", [10, 30])
@pytest.mark.parametrize(
    ("only_best", "only_last"),
    [(0.01, 0.01), (0.05, 0.02), (0.1, 0.1), (0.2, 0.05), (0.3, 0.3), (0.4, 0.1)],
)
def test_interval_covers_the_true_difference(
    videos: int, only_best: float, only_last: float
) -> None:
    assert coverage(videos, only_best, only_last) >= 0.92


def test_interval_of_a_long_list_is_that_of_the_mean_of_differences() -> None:
    differences = np.repeat([1, -1, 0], [1320, 1070, 9050])
    margin = 1.96 * differences.std() / math.sqrt(len(differences))
    expected = (differences.mean() - margin, differences.mean() + margin)
    assert difference_interval(11440, 1320, 1070) == pytest.approx(expected, abs=2e-4)


@given(videos=st.integers(1, 10**6), data=st.data())
def test_interval_is_antisymmetric_and_never_empty(videos: int, data: st.DataObject) -> None:
    first = data.draw(st.integers(0, videos))
    second = data.draw(st.integers(0, videos - first))
    low, high = difference_interval(videos, first, second)
    assert -1 <= low < high <= 1
    assert low <= (first - second) / (videos + 2) <= high
    assert difference_interval(videos, second, first) == pytest.approx((-high, -low))


def test_small_lists_are_named() -> None:
    assert describe_difference(30, 3, 1) == (
        "best and last differ by 2 of 30 videos (95% interval of the difference -7 to +20 points): "
        "the list is too small to choose by; compare both on the test list"
    )
    line = describe_difference(30, 1, 1)
    assert line is not None
    assert line.startswith("best and last are right equally often, on 30 videos (95% interval")
    assert describe_difference(1000, 80, 20) is None
