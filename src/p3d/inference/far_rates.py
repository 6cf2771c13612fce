"""Whether videos have frame rates like those that a network was trained on."""

from __future__ import annotations

from collections.abc import Sequence

from p3d.system.text import counted, describe_rates

_FAR = 1.5
"""Ratio of two frame rates from which motion looks clearly faster or slower."""


def describe_far_rates(
    rates: Sequence[float], trained: tuple[float, float] | None, fps: float | None
) -> str | None:
    """Say which frame rates are far from those of the training videos, or return None.

    Without `fps`, motion looks slower in a video of a higher rate, and faster in one of a lower
    rate. With it, only a lower rate matters, since frames are repeated.

    Args:
        rates: Frame rates of the videos; 0 where unknown.
        trained: Lowest and highest rate of the training videos; None if unknown.
        fps: Rate at which the network takes frames; None for the videos' own.
    """
    if trained is None:
        return None
    low, high = trained
    least = min(low, low if fps is None else fps) / _FAR
    slow = [rate for rate in rates if 0 < rate <= least]
    fast = [rate for rate in rates if rate >= high * _FAR] if fps is None else []
    if not slow and not fast:
        return None
    far = [*slow, *fast]
    shown = describe_rates((min(far), max(far)))
    text = (
        f"RATE: {counted(len(far), 'video')} with {shown}, the weights were trained on "
        f"{describe_rates(trained)}"
    )
    if fps is None:
        return f"{text}: motion looks slower or faster; train with --fps 25"
    return f"{text}: frames are repeated"
