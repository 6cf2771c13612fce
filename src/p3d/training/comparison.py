"""Comparing the best and the last network of a run on the same validation videos.

The epochs' answers are paired: most videos get the same answer from both networks, and only the
others tell them apart. So the interval is that of Agresti and Min for matched proportions (2005,
Statistics in Medicine 24, 729-740): Wald's, with half a video added to each of the four counts.

The best of many epochs looks better than it is, because it was chosen for its accuracy. The
interval does not correct that.
"""

from __future__ import annotations

import math

from torch import Tensor

RIGHT, WRONG, UNREAD = "1", "0", "-"
NORMAL_975 = 1.959964
"""97.5% quantile of the normal distribution."""


def answers_of(probabilities: Tensor, labels: Tensor, indices: Tensor, num_videos: int) -> str:
    """Return a character for each video of a list: `RIGHT`, `WRONG` or `UNREAD`.

    Args:
        probabilities: float `(V, num_classes)` of the videos that could be read.
        labels: int64 `(V,)`.
        indices: int64 `(V,)`, their positions in the list.
        num_videos: Length of the list.
    """
    answers = [UNREAD] * num_videos
    correct = (probabilities.argmax(1) == labels).tolist()
    for index, is_right in zip(indices.tolist(), correct, strict=True):
        answers[index] = RIGHT if is_right else WRONG
    return "".join(answers)


def compare_answers(best: str, last: str) -> tuple[int, int, int] | None:
    """Compare two networks on the videos that both could read.

    Returns:
        Number of videos, of those that only the best network answers right, and of those that only
        the last one does. None if there are no such videos, or the answers are for other lists.
    """
    if len(best) != len(last):
        return None
    pairs = [pair for pair in zip(best, last, strict=True) if UNREAD not in pair]
    if not pairs:
        return None
    return len(pairs), pairs.count((RIGHT, WRONG)), pairs.count((WRONG, RIGHT))


def difference_interval(videos: int, only_best: int, only_last: int) -> tuple[float, float]:
    """Return a 95% interval of how much more accurate the best network is than the last.

    Args:
        videos: Number of videos, at least 1.
        only_best: Videos that only the best network answers right.
        only_last: Videos that only the last network answers right.

    Returns:
        Lower and upper limit of the difference of the accuracies, in [-1, 1].
    """
    total, first, second = videos + 2, only_best + 0.5, only_last + 0.5
    difference = (first - second) / total
    error = math.sqrt((first + second) - (first - second) ** 2 / total) / total
    margin = NORMAL_975 * error
    return max(-1.0, difference - margin), min(1.0, difference + margin)


def describe_difference(videos: int, only_best: int, only_last: int) -> str | None:
    """Say that the validation list is too small to choose between best and last, or return None."""
    low, high = difference_interval(videos, only_best, only_last)
    if low > 0:
        return None
    difference = only_best - only_last
    differ = f"differ by {abs(difference)} of" if difference else "are right equally often, on"
    return (
        f"best and last {differ} {videos} videos (95% interval of the difference "
        f"{100 * low:+.0f} to {100 * high:+.0f} points): "
        "the list is too small to choose by; compare both on the test list"
    )
