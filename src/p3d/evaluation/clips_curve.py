"""Accuracy against the number of clips of each video, from the logits of all clips."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass
from typing import Any

import torch
from torch import Tensor

from p3d.errors import UserError
from p3d.inference.clip_plan import NumClips, settled_threshold
from p3d.inference.scoring import VideoScores
from p3d.inference.settled import AUTO_CLIPS, answers_after_each, confidences, halving_order
from p3d.system.text import format_percent, format_table

_COUNTS = (1, 2, 5, 10, 20)
_VIDEOS_AT_ONCE = 256


@dataclass(frozen=True)
class CurvePoint:
    """Accuracy with a number of clips.

    Attributes:
        clips: Number of clips, or "auto".
        mean_clips: Clips of a video on average.
        top1: Fraction of videos whose answer is right, in [0, 1].
    """

    clips: NumClips
    mean_clips: float
    top1: float


def check_curve(clips: NumClips) -> None:
    """Check that the curve can be computed from this number of clips.

    Raises:
        UserError: It cannot.
    """
    if clips == "auto" or clips < 2:
        raise UserError(
            f"--clips-curve needs all clips of each video, and --clips is {clips}; give --clips 20"
        )


def clips_curve(logits: Tensor, labels: Tensor, settled: float) -> list[CurvePoint]:
    """Return the accuracy with 1, 2, 5, 10, 20 and all clips, and with "auto".

    Fewer clips are the first ones in the order of "auto", which halves the gaps.

    Args:
        logits: float `(V, num_clips, num_classes)`, in the order of time.
        labels: int64 `(V,)`.
        settled: Threshold of "auto".
    """
    num_clips = logits.shape[1]
    ordered = logits[:, halving_order(num_clips)]
    right = (answers_after_each(ordered) == labels[:, None]).double()
    counts = [*(count for count in _COUNTS if count < num_clips), num_clips]
    points = [CurvePoint(n, n, float(right[:, n - 1].mean())) for n in counts]
    parts = ordered.split(_VIDEOS_AT_ONCE)
    reached = torch.cat([confidences(part, num_clips) >= settled for part in parts])
    used = reached.int().argmax(1) + 1
    top1 = right.gather(1, used[:, None] - 1).mean()
    return [*points, CurvePoint("auto", float(used.double().mean()), float(top1))]


@dataclass(frozen=True)
class ClipReport:
    """What an evaluation says about numbers of clips.

    Attributes:
        lines: Lines to print.
        record: Values for `metrics.json`.
    """

    lines: tuple[str, ...]
    record: Mapping[str, Any]


def report_clips(
    scored: VideoScores, clips: NumClips, calibration: Mapping[str, float], *, curve: bool
) -> ClipReport:
    """Report how many clips "auto" took, and the curve if it is asked for.

    Args:
        scored: The scores of the evaluation.
        clips: Clips of each video.
        calibration: Values stored with the weights, see `P3D.calibration`.
        curve: Whether to compute the curve.
    """
    settled, origin = settled_threshold(calibration)
    rule = f"settled at {settled:g} ({origin})"
    if clips == "auto":
        mean = float(scored.clips_used.double().mean())
        line = f"clips: {mean:.1f} of {AUTO_CLIPS} on average, {rule}"
        return ClipReport((line,), {"mean_clips": mean, "settled": settled})
    if not curve:
        return ClipReport((), {})
    points = clips_curve(scored.logits, scored.labels, settled)
    rows = [(p.clips, f"{p.mean_clips:.1f}", format_percent(p.top1)) for p in points]
    table = format_table(("clips", "mean", "top-1"), rows)
    record = {"clips_curve": [asdict(point) for point in points], "settled": settled}
    return ClipReport((table, f"auto: {rule}"), record)
