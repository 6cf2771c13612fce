"""Options of cutting the scores of a video into segments."""

from __future__ import annotations

from dataclasses import dataclass

from p3d.errors import UserError


def paired_thresholds(
    high: float | None, low: float | None, usual_high: float, usual_low: float
) -> tuple[float, float]:
    """Return both thresholds: one that is not given is the usual one, or follows the other.

    So `high` alone may be below the usual `low`, which is lowered to it then, and vice versa.
    """
    if high is None:
        high = usual_high if low is None else max(usual_high, low)
    return high, min(usual_low, high) if low is None else low


@dataclass(frozen=True, init=False)
class CutOptions:
    """How scores become segments.

    Attributes:
        smooth: Seconds over which scores are averaged; 0 does not smooth.
        high: Probability that a class must reach for a segment; by default, or for None, 0.5, or
            `low` if that is higher.
        low: Probability that ends a segment when the class falls below it; by default, or for None,
            0.3, or `high` if that is lower.
        shortest: Shortest segment in seconds.
        merge: Longest gap in seconds between two segments of a class that become one.
    """

    smooth: float
    high: float
    low: float
    shortest: float
    merge: float

    def __init__(
        self,
        smooth: float = 1.0,
        high: float | None = None,
        low: float | None = None,
        shortest: float = 0.5,
        merge: float = 0.5,
    ) -> None:
        high, low = paired_thresholds(high, low, usual_high=0.5, usual_low=0.3)
        for name, value in zip(
            ("smooth", "high", "low", "shortest", "merge"),
            (smooth, high, low, shortest, merge),
            strict=True,
        ):
            object.__setattr__(self, name, value)  # since it is frozen

    def check(self) -> None:
        """Raise UserError if a value is out of range."""
        if not 0 < self.low <= self.high <= 1:
            raise UserError(
                f"--low is {self.low:g} and --high is {self.high:g}; give probabilities above 0, "
                "at most 1, the low one not above the high one"
            )
        for name in ("smooth", "shortest", "merge"):
            seconds: float = getattr(self, name)
            if not 0 <= seconds < float("inf"):
                raise UserError(f"--{name} is {seconds:g}; give seconds, 0 or more")
