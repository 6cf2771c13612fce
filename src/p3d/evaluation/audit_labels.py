"""Labels that look wrong, by confident learning.

Northcutt, Jiang and Chuang, "Confident Learning: Estimating Uncertainty in Dataset Labels" (2021):
the threshold of a class is the mean probability that its own videos give it. A video counts for the
most probable of the classes whose thresholds it reaches. If that is not the class of its label, the
label looks wrong: it is off the diagonal of the confident joint.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import NamedTuple

import numpy as np

from p3d.errors import UserError
from p3d.scores.arrays import Floats, Integers

_ROUNDING = 1e-9
"""A class whose videos all have the same probability reaches its threshold."""


class Suspect(NamedTuple):
    """A video whose label looks wrong.

    Attributes:
        video: Its position.
        label: Index of its class.
        suggestion: Index of the class that it looks like.
        probability: Of its class.
        suggested: Probability of the other class.
    """

    video: int
    label: int
    suggestion: int
    probability: float
    suggested: float

    @property
    def margin(self) -> float:
        """How much more probable the other class is, in (0, 1]."""
        return self.suggested - self.probability


@dataclass(frozen=True)
class LabelAudit:
    """What confident learning says about the labels of videos.

    Attributes:
        thresholds: float64 `(num_classes,)`; infinite for classes that are not checked.
        checked: Number of videos of the other classes.
        suspects: Videos whose labels look wrong, the largest margin first.
    """

    thresholds: Floats
    checked: int
    suspects: tuple[Suspect, ...]


def checked_classes(labels: Integers, num_classes: int, min_videos: int) -> Integers:
    """Return the classes with enough videos.

    Raises:
        UserError: There are fewer than two.
    """
    counts = np.bincount(labels, minlength=num_classes)
    enough = np.flatnonzero(counts >= min_videos)
    if len(enough) < 2:
        largest = int(counts.max(initial=0))
        raise UserError(
            f"{len(enough)} of {num_classes} classes have {min_videos} videos or more (the largest "
            f"has {largest}), and two are needed; score more videos, or lower --min-videos"
        )
    return enough


def audit_labels(probabilities: Floats, labels: Integers, classes: Integers) -> LabelAudit:
    """Find labels that look wrong.

    Args:
        probabilities: `(V, num_classes)`, of videos that the network was not trained on.
        labels: `(V,)`.
        classes: The classes to check; labels of others are not, and none is suggested.
    """
    thresholds = np.full(probabilities.shape[1], np.inf)
    for each in classes.tolist():
        thresholds[each] = probabilities[labels == each, each].mean()
    reached = probabilities >= thresholds - _ROUNDING
    confident = np.where(reached, probabilities, -1.0).argmax(1)
    rows = np.arange(len(labels))
    margins = probabilities[rows, confident] - probabilities[rows, labels]
    is_checked = np.isin(labels, classes)
    # Where no threshold is reached, there is no evidence against the label.
    found = np.flatnonzero(is_checked & reached.any(1) & (confident != labels) & (margins > 0))
    found = found[np.argsort(-margins[found], kind="stable")]
    return LabelAudit(
        thresholds,
        int(is_checked.sum()),
        tuple(
            Suspect(
                video,
                int(labels[video]),
                int(confident[video]),
                float(probabilities[video, labels[video]]),
                float(probabilities[video, confident[video]]),
            )
            for video in found.tolist()
        ),
    )
