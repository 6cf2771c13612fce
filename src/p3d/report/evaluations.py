"""Evaluations of a run's network, as `p3d eval` leaves them in the run's folder."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from p3d.report.lines import as_dict, number, read_object
from p3d.run_folder import BEST_FILE, METRICS_FILE
from p3d.system.files import TEMPORARY, file_sha256


@dataclass(frozen=True)
class Evaluation:
    """The metrics of an evaluation.

    Attributes:
        folder: The folder of its files.
        metrics: The content of its `metrics.json`.
        is_current: Whether the run's best weights were evaluated; older files do not say, which
            counts as yes.
    """

    folder: Path
    metrics: Mapping[str, Any]
    is_current: bool = True

    @property
    def options(self) -> Mapping[str, Any]:
        """Options of the evaluation."""
        return as_dict(self.metrics.get("options"))

    @property
    def split(self) -> str:
        """The split that was evaluated."""
        return str(self.options.get("split", "test"))

    def warnings(self) -> Iterator[str]:
        """Yield what limits the figures, a sentence each."""
        seen, videos = number(self.metrics, "trained_on", 0), number(self.metrics, "videos", 0)
        if seen and self.split != "train":
            yield (
                f"{seen:,.0f} of {videos:,.0f} {self.split} videos were in the training list of "
                "the weights; the accuracy does not show how well they do on new videos."
            )
        if missing := number(self.metrics, "missing", 0):
            yield f"{missing:,.0f} listed {self.split} videos do not exist and were not measured."
        bad = self.metrics.get("bad")
        if isinstance(bad, list) and bad:
            yield f"{len(bad):,} {self.split} videos cannot be read and were not measured."
        if not self.is_current:
            yield (
                f"The {self.split} figures are those of other weights than {BEST_FILE}; "
                "p3d eval --run measures these."
            )


def read_metrics(folder: Path, weights_sha256: str) -> dict[str, Any]:
    """Read what `p3d eval` wrote beside scores, if it was about the same weights.

    Args:
        folder: The folder of the evaluation.
        weights_sha256: SHA-256 of the weights that the scores are of.

    Returns:
        The content of `metrics.json`; empty if it is missing, damaged, of other weights, or of
        `p3d metrics`.
    """
    metrics = read_object(folder / METRICS_FILE)
    is_same = "scores" not in metrics and metrics.get("weights_sha256") == weights_sha256
    return metrics if is_same else {}


def read_evaluations(run: Path) -> tuple[Evaluation, ...]:
    """Read the evaluations in a run's folder and in the folders directly in it.

    Files that are damaged are left out, and those whose figures are not the network's accuracy on a
    split: of p3d metrics, and of frames that are not in order.
    """
    below = sorted(path.parent for path in run.glob(f"*/{METRICS_FILE}"))
    folders = [run, *(each for each in below if not each.name.startswith(TEMPORARY))]
    found = [(folder, read_object(folder / METRICS_FILE)) for folder in folders]
    measured = [(folder, metrics) for folder, metrics in found if _is_evaluation(metrics)]
    best = run / BEST_FILE
    digest = file_sha256(best) if measured and best.is_file() else None
    return tuple(
        Evaluation(
            folder,
            metrics,
            digest is None or metrics.get("weights_sha256", digest) == digest,
        )
        for folder, metrics in measured
    )


def _is_evaluation(metrics: Mapping[str, Any]) -> bool:
    options = as_dict(metrics.get("options"))
    is_ordered = options.get("frames", "ordered") in ("ordered", "all")
    return "top1" in metrics and "scores" not in metrics and is_ordered
