"""Read what the folder of an evaluation holds, with all files but the scores optional."""

from __future__ import annotations

import csv
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from p3d.errors import UserError
from p3d.report.evaluations import Evaluation, read_metrics
from p3d.report.lines import as_dict, number, read_object
from p3d.run_folder import AUDIT_FILE, AUDIT_VERSION, LOGITS_FILE, MOTION_FILE
from p3d.scores.figures import Figures, compute_figures
from p3d.scores.resampling import Bootstrap
from p3d.scores.score_file import ScoreFile, read_score_file
from p3d.system.csv_file import plain_cell
from p3d.system.files import file_sha256


@dataclass(frozen=True)
class ScoredRecord:
    """The contents of the folder of an evaluation.

    Attributes:
        folder: The folder.
        scores: The scores of the videos that have a label.
        figures: All figures, of the network's own logits.
        calibrated: The same with the temperature; None if none is known.
        evaluation: What `p3d eval` left besides the scores; its metrics are empty if there are
            none, or if they are of other weights.
        motion: Lines of `motion.csv`; empty if it is missing, damaged or of other scores.
        bootstrap: How the intervals were computed.
        audit: What `p3d audit` found; empty if it is missing, or of other scores.
    """

    folder: Path
    scores: ScoreFile
    figures: Figures
    calibrated: Figures | None
    evaluation: Evaluation
    motion: tuple[Mapping[str, float | str], ...]
    bootstrap: Bootstrap
    audit: Mapping[str, Any]

    @property
    def shown(self) -> Figures:
        """The figures of the probabilities that `p3d predict` would print."""
        return self.calibrated or self.figures

    @property
    def starting_folder(self) -> Path:
        """The folder that relative paths start from."""
        return Path(str(self.evaluation.metrics.get("folder", "")))


def read_scored(folder: Path, temperature: float | None = None) -> ScoredRecord:
    """Read the folder of an evaluation, and compute its figures.

    Args:
        folder: The folder, which holds `scores.npz`.
        temperature: Divides every clip's logits; by default that of the weights, if they have one.

    Raises:
        UserError: The scores cannot be read, have no labels, or cannot be divided.
    """
    scores = read_score_file(folder / LOGITS_FILE)
    metrics = read_metrics(folder, scores.weights_sha256)
    bootstrap = Bootstrap()
    figures = compute_figures(scores, bootstrap, name=str(folder))
    divisor = _temperature(scores, as_dict(metrics.get("calibration")), temperature)
    calibrated = None
    if divisor is not None:
        calibrated = compute_figures(scores, bootstrap, temperature=divisor, name=str(folder))
    return ScoredRecord(
        folder,
        scores.labeled(),
        figures,
        calibrated,
        Evaluation(folder, metrics),
        _read_motion(folder / MOTION_FILE, figures),
        bootstrap,
        _read_audit(folder),
    )


def _temperature(
    scores: ScoreFile, calibration: Mapping[str, Any], given: float | None
) -> float | None:
    """Return the temperature to show besides 1, or None."""
    if given is None:
        known = number(calibration, "temperature", 1.0)
        return known if known != 1 and not scores.holds_means else None
    if given <= 0:
        raise UserError(f"--temperature is {given:g}; give a number above 0")
    if scores.holds_means:
        raise UserError(
            f"--temperature {given:g}: the scores are means over clips, and the logits of single "
            "clips are divided; give scores of p3d eval with a number of clips"
        )
    return given


def _read_motion(path: Path, figures: Figures) -> tuple[Mapping[str, float | str], ...]:
    """Read the file of `p3d eval --frames all`, unless it is of other scores."""
    try:
        with path.open(encoding="utf-8", newline="") as file:
            rows = [
                {name: plain_cell(cell) if name == "frames" else float(plain_cell(cell))
                 for name, cell in row.items()}
                for row in csv.DictReader(file, strict=True)
            ]  # fmt: skip
    except (OSError, ValueError, TypeError, AttributeError, csv.Error):
        return ()
    first, accuracy = next(iter(rows), {}), figures.accuracy
    # p3d eval counts in float32, where two classes may be equally probable.
    is_same = abs(number(first, "top1") - accuracy.top1) < 1.5 / accuracy.videos
    return tuple(rows) if is_same and first.get("videos") == accuracy.videos else ()


def _read_audit(folder: Path) -> Mapping[str, Any]:
    """Read the file of `p3d audit`, unless it is of other scores."""
    audit = read_object(folder / AUDIT_FILE)
    if audit.get("scores_sha256") != file_sha256(folder / LOGITS_FILE):
        return {}
    return audit if audit.get("version") == AUDIT_VERSION else {}
