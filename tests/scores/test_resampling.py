"""Bootstrap and permutation test over groups."""

from __future__ import annotations

from itertools import product

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from p3d.scores.arrays import Floats
from p3d.scores.resampling import (
    Bootstrap,
    number_groups,
    sign_flip_test,
    smallest_p,
)


def _mean(sums: Floats) -> Floats:
    return sums[..., 1:] / sums[..., :1]


def _with_count(values: Floats) -> Floats:
    return np.stack([np.ones(len(values)), values], 1)


def test_groups_are_numbered_and_videos_without_one_are_their_own() -> None:
    groups = number_groups(["b", "", "a", "b", ""])
    assert groups.numbers.tolist() == [0, 1, 2, 0, 3]
    assert (groups.count, groups.ungrouped) == (4, 2)
    assert groups.describe() == "4 groups (2 videos without a group count as one each)"
    assert groups.sums(np.array([[1.0], [2], [3], [4], [5]])).tolist() == [[5], [2], [3], [5]]
    assert number_groups(["", ""]).describe() == "2 videos (no groups are known)"
    assert number_groups(["a"]).describe() == "1 group"


def test_the_interval_of_a_mean_is_that_of_the_normal_distribution() -> None:
    values = np.random.default_rng(3).normal(size=2000)
    [interval] = Bootstrap(4000).intervals(number_groups([""] * 2000), _with_count(values), _mean)
    assert interval is not None
    error = 1.96 * values.std() / 2000**0.5
    assert interval.low == pytest.approx(values.mean() - error, abs=0.1 * error)
    assert interval.high == pytest.approx(values.mean() + error, abs=0.1 * error)


def test_copies_in_a_group_do_not_make_the_interval_narrower() -> None:
    values = np.random.default_rng(0).normal(size=30)
    names = [str(number) for number in range(30)]
    once, often = (
        Bootstrap(200).intervals(
            number_groups(names * copies), _with_count(np.tile(values, copies)), _mean
        )
        for copies in (1, 9)
    )
    np.testing.assert_allclose(once, often)


def test_draws_depend_on_the_seed_alone(monkeypatch: pytest.MonkeyPatch) -> None:
    groups, values = number_groups(list("abcdefg")), _with_count(np.arange(7.0))
    first, again = (Bootstrap(100).intervals(groups, values, _mean) for _ in range(2))
    assert first == again
    assert first != Bootstrap(100, seed=1).intervals(groups, values, _mean)
    monkeypatch.setattr("p3d.scores.resampling._BLOCK", 14)
    assert len(Bootstrap(100)._resampled_sums(groups, values)) == 100


@settings(deadline=None, max_examples=25)
@given(st.lists(st.integers(-3, 3), min_size=1, max_size=8))
def test_few_groups_try_all_signs(differences: list[int]) -> None:
    values = np.array(differences, float)
    groups = number_groups([""] * len(values))
    patterns = [
        abs(sum(s * v for s, v in zip(signs, values, strict=True)))
        for signs in product((1, -1), repeat=len(values))
    ]
    expected = np.mean([total >= abs(values.sum()) for total in patterns])
    assert sign_flip_test(groups, values[:, None] / 7) == [pytest.approx(expected)]
    assert sign_flip_test(groups, values[:, None])[0] >= min(1, smallest_p(len(values)))


def test_many_groups_draw_signs() -> None:
    groups = number_groups([""] * 14)
    ones = np.ones((14, 1))
    assert sign_flip_test(groups, ones)[0] < 5e-4
    assert sign_flip_test(groups, np.concatenate([ones[:7], -ones[:7]])) == [1.0]
    values = np.array([1.0, 1, 1, *[0] * 11])[:, None]
    assert sign_flip_test(groups, values)[0] == pytest.approx(0.25, abs=0.02)


def test_without_a_difference_p_values_are_uniform() -> None:
    rng = np.random.default_rng(0)
    groups = number_groups([str(i // 3) for i in range(36)])
    values = rng.normal(size=(36, 300))
    p_values = np.array(sign_flip_test(groups, values))
    assert 0.02 < (p_values < 0.05).mean() < 0.09
    assert 0.4 < (p_values < 0.5).mean() < 0.6
