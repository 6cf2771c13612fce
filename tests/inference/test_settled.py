"""When a video's answer is settled, and how the threshold is chosen."""

from __future__ import annotations

import itertools
import math
import statistics

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor
from torch.nn import functional

from p3d.errors import UserError
from p3d.inference.clip_plan import plan_clips, settled_threshold
from p3d.inference.settled import (
    DEFAULT_SETTLED,
    THRESHOLDS,
    answers_after_each,
    choose_settled,
    clips_used,
    confidences,
    halving_order,
)

# The first call loads parts of PyTorch, which takes longer than the default deadline.
many = settings(max_examples=50, deadline=None)
few = settings(many, max_examples=15)

seeds = st.integers(0, 2**31)
counts = st.integers(1, 20)
thresholds = st.sampled_from(THRESHOLDS)


def random_logits(seed: int, *shape: int, scale: float = 3.0) -> Tensor:
    generator = torch.Generator().manual_seed(seed)
    offset = torch.randn(*shape[:-2], 1, shape[-1], generator=generator)
    return scale * (offset + torch.randn(shape, generator=generator))


@many
@given(st.integers(0, 200))
def test_the_order_halves_the_gaps(count: int) -> None:
    order = halving_order(count)
    assert sorted(order) == list(range(count))
    for n in range(1, count + 1):
        ends = [-1, *sorted(order[:n]), count]
        gaps = [b - a for a, b in itertools.pairwise(ends)]
        # A gap is halved only after all that are larger by more than rounding.
        assert max(gaps) <= 2 * min(gaps) + 2


def test_the_middle_comes_first() -> None:
    assert halving_order(7) == (3, 1, 5, 0, 2, 4, 6)
    assert halving_order(20)[:3] == (10, 5, 15)


def expected_confidence(clips: list[list[float]], num_clips: int) -> float:
    """Compute a confidence again, with numbers instead of tensors."""
    n = len(clips)
    means = [statistics.fmean(column) for column in zip(*clips, strict=True)]
    best = max(range(len(means)), key=means.__getitem__)
    lowest = math.inf
    for other in range(len(means)):
        if other != best:
            margins = [clip[best] - clip[other] for clip in clips]
            mean = statistics.fmean(margins)
            variance = (sum((m - mean) ** 2 for m in margins) + 0.25**2) / n
            # The final mean is (n * mean + unseen * m) / num_clips, where m has this deviation.
            unseen = num_clips - n
            deviation = math.sqrt(variance / n + variance / unseen)
            lowest = min(lowest, num_clips * mean / (unseen * deviation))
    return statistics.NormalDist().cdf(lowest)


@many
@given(seeds, st.integers(2, 6), st.integers(2, 19))
def test_confidence_is_the_normal_probability_of_the_smallest_margin(
    seed: int, classes: int, n: int
) -> None:
    logits = random_logits(seed, 20, classes)
    expected = expected_confidence(logits[:n].double().softmax(-1).tolist(), 20)
    assert float(confidences(logits, 20)[n - 1]) == pytest.approx(min(expected, 1), abs=1e-8)


@many
@given(seeds, counts, st.integers(1, 6), thresholds)
def test_clips_used_is_in_range_and_depends_on_the_clips_used_alone(
    seed: int, clips: int, classes: int, settled: float
) -> None:
    logits = random_logits(seed, clips, classes)
    used = clips_used(logits, settled)
    assert used is not None
    assert min(2, clips) <= used <= clips
    for n in range(1, clips):
        assert clips_used(logits[:n], settled, clips) == (used if n >= used else None)


@many
@given(seeds, counts, st.integers(1, 6))
def test_the_order_of_the_classes_does_not_matter(seed: int, clips: int, classes: int) -> None:
    logits = random_logits(seed, clips, classes)
    order = torch.randperm(classes, generator=torch.Generator().manual_seed(seed))
    found, permuted = (confidences(part, clips) for part in (logits, logits[:, order]))
    torch.testing.assert_close(found, permuted, rtol=0, atol=1e-9)


@many
@given(seeds, counts, thresholds, thresholds)
def test_a_higher_threshold_takes_no_fewer_clips(
    seed: int, clips: int, first: float, second: float
) -> None:
    logits = random_logits(seed, clips, 4)
    low, high = sorted((first, second))
    assert (clips_used(logits, low) or 0) <= (clips_used(logits, high) or 0)
    assert clips_used(logits, 1.0) == clips


def test_clear_answers_need_two_clips_and_ties_need_all() -> None:
    clear = torch.tensor([[9.0, 0.0, 0.0]]).expand(20, 3)
    assert clips_used(clear, DEFAULT_SETTLED) == 2
    tied = torch.tensor([[9.0, 0.0], [0.0, 9.0]]).repeat(10, 1)
    assert clips_used(tied, DEFAULT_SETTLED) == 20
    assert clips_used(torch.full((5, 3), torch.nan), 0.9) == 5


@few
@given(seeds, st.integers(1, 40), st.floats(0.2, 4))
def test_the_chosen_threshold_costs_at_most_half_a_point(
    seed: int, videos: int, scale: float
) -> None:
    logits = random_logits(seed, videos, 20, 5, scale=scale)
    labels = answers_after_each(logits)[:, -1].clone()
    labels[::3] = 0
    chosen = choose_settled(logits, labels)

    ordered = logits[:, halving_order(20)]
    sure = confidences(ordered, 20)

    def used(threshold: float) -> list[int]:
        return [next(n for n in range(20) if video[n] >= threshold) + 1 for video in sure]

    def right(threshold: float) -> int:
        means = [
            video[:n].double().softmax(-1).mean(0)
            for video, n in zip(ordered, used(threshold), strict=True)
        ]
        return int((torch.stack(means).argmax(1) == labels).sum())

    def expected(threshold: float) -> float:
        """Return the loss with 200 more videos, which change as the confidences say."""
        changed = [1 - float(video[n - 1]) for video, n in zip(sure, used(threshold), strict=True)]
        return (losses[threshold] + 200 * statistics.fmean(changed)) / (videos + 200)

    assert chosen in THRESHOLDS
    losses = {threshold: right(1.0) - right(threshold) for threshold in THRESHOLDS}
    costs_little = {t: max(losses[t] / videos, expected(t)) <= 0.005 for t in THRESHOLDS}
    assert all(good for t, good in costs_little.items() if t >= chosen)
    lower = [t for t in THRESHOLDS if t < chosen]
    assert not lower or not costs_little[lower[-1]]


def test_a_threshold_cannot_be_chosen_from_single_clips_or_without_labels() -> None:
    with pytest.raises(UserError, match=r"3 labeled videos with 1 clips .* p3d eval --clips 20"):
        choose_settled(torch.zeros(3, 1, 2), torch.zeros(3, dtype=torch.int64))
    with pytest.raises(UserError, match="0 labeled videos"):
        choose_settled(torch.zeros(3, 20, 2), torch.full((3,), -1))


@pytest.mark.parametrize(("batch_size", "sizes"), [(1, [2] + [1] * 18), (16, [2, 3, 5, 10])])
def test_auto_checks_after_each_clip_or_in_groups(batch_size: int, sizes: list[int]) -> None:
    plan = plan_clips("auto", 0.9, batch_size)
    assert [len(group) for group in plan.groups] == sizes
    assert plan.order == halving_order(20)
    assert (plan.num_clips, plan.settled) == (20, 0.9)


@many
@given(st.integers(1, 500))
def test_a_number_of_clips_is_read_in_order_and_in_bounded_groups(clips: int) -> None:
    plan = plan_clips(clips, 0.9, 16)
    assert plan.order == tuple(range(clips))
    assert max(map(len, plan.groups)) <= 32
    for n, group in enumerate(plan.groups, start=1):
        used = plan.used(torch.zeros(group[-1] + 1, 2), n)
        assert used == (clips if n == len(plan.groups) else None)


def test_threshold_is_the_calibrated_one_or_a_default() -> None:
    assert settled_threshold({"settled": 0.8}) == (0.8, "calibrated")
    assert settled_threshold({"temperature": 2.0})[0] == DEFAULT_SETTLED
    with pytest.raises(UserError, match="clips is 0; give 1 or more, or auto"):
        plan_clips(0, 0.9, 1)


@pytest.mark.parametrize("count", [10, 20, 50, 200])
def test_the_chosen_threshold_costs_at_most_half_a_point_of_new_videos(count: int) -> None:
    """Few videos show no loss by chance; the threshold must not rest on them alone."""
    generator = torch.Generator().manual_seed(count)
    labels = torch.randint(10, (1000,), generator=generator)
    classes = torch.randn(1000, 10, generator=generator) + 2 * functional.one_hot(labels, 10)
    # Neighboring clips resemble each other: each is the mean of five steps of white noise.
    noise = torch.randn(1000, 24, 10, generator=generator).unfold(1, 5, 1).sum(-1) / math.sqrt(5)
    logits = classes[:, None] + noise
    ordered = logits[:, halving_order(20)]
    right = (answers_after_each(ordered) == labels[:, None]).double()
    sure = confidences(ordered, 20)

    def loss(threshold: float) -> float:
        used = (sure >= threshold).int().argmax(1, keepdim=True)
        return float((right[:, -1] - right.gather(1, used)[:, 0]).mean())

    draws = [torch.randperm(1000, generator=generator)[:count] for _ in range(20)]
    chosen = [choose_settled(logits[drawn], labels[drawn]) for drawn in draws]
    assert statistics.fmean(map(loss, chosen)) <= 0.005
    assert statistics.median(chosen) < 1  # clips are saved all the same
