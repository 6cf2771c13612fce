"""`p3d calibrate`: fit what turns a network's scores into answers to validation videos.

The temperature divides every clip's logits, before their softmax is averaged over the clips (Guo et
al. 2017, sec. 4.2, for one clip). It is kept with the weights, and `p3d predict` uses it; so is the
threshold at which `--clips auto` takes no more clips. With `--truth`, it is how a timeline's scores
become segments, see `p3d.evaluation.calibrate_timeline`.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import torch

from p3d.errors import UserError, printable
from p3d.evaluation.calibrate_timeline import calibrate_timeline
from p3d.evaluation.metrics import describe_scores
from p3d.evaluation.timeline_fit import Goal
from p3d.inference.settled import AUTO_CLIPS, choose_settled
from p3d.inference.timeline.calibrated import calibrated_cut
from p3d.inference.timeline.score_log import holds_window_scores
from p3d.scores.calibration import (
    BINS,
    TemperatureFit,
    calibration_error,
    fit_temperature,
    reliability,
)
from p3d.scores.figures import labeled_scores
from p3d.scores.resampling import Bootstrap, number_groups
from p3d.scores.score_file import ScoreFile, read_score_file
from p3d.scores.tables import describe_intervals
from p3d.system.files import check_place
from p3d.system.markers import First, Positional
from p3d.system.options import check_least
from p3d.system.text import format_percent, format_table
from p3d.weights.calibration import check_scored_by
from p3d.weights.describe import read_weights
from p3d.weights.loading import build_model, find_weights
from p3d.weights.metadata import save_model

_SUFFIX = ".safetensors"


@dataclass(frozen=True)
class CalibrateOptions:
    """Fit the temperature of a network's probabilities, and the threshold of --clips auto, to the
    scores of validation videos. With --truth, fit how p3d timeline cuts its scores."""

    scores: Positional[Path]
    """Folder that p3d eval --split validation --out wrote to, or its scores.npz; with --truth, a
    file of p3d timeline --scores."""
    weights: Path
    """The weight file that was evaluated, or the folder of its run. It is not changed."""
    out: First[Path | None] = None
    """Copy of the weights that holds what was fitted; by default NAME-calibrated.safetensors beside
    the file."""
    truth: First[Path | None] = None
    """File of the true segments of the videos, as for p3d detection: fit smoothing, thresholds,
    shortest segment and longest gap of p3d timeline to them."""
    goal: First[Goal] = "f1"
    """With --truth, what is maximized: f1, the mean of segmental F1@10, 25 and 50, for segments
    that are used as they are; map, the average mAP of segments that are ranked by their scores."""
    resamples: int = 2000
    """Draws of the bootstrap for the interval."""
    seed: int = 0
    """Seed of the bootstrap."""


def run(options: CalibrateOptions) -> None:
    """Run `p3d calibrate`.

    Raises:
        UserError: The scores are not those of the weights, or no temperature fits them.
    """
    check_least(1, resamples=options.resamples)
    check_least(0, seed=options.seed)
    weights, name = find_weights(options.weights), str(options.scores)
    target = _target(options.out, weights)
    if holds_window_scores(options.scores) and options.truth is None:
        raise UserError(f"{name}: holds scores of windows; give --truth with the true segments")
    if options.truth is not None:
        calibrate_timeline(options.scores, options.truth, weights, target, options.goal)
        return
    scores = read_score_file(options.scores)
    _check_origin(scores, name, weights)
    labeled, bootstrap = labeled_scores(scores, name), Bootstrap(options.resamples, options.seed)
    groups = number_groups(labeled.groups)
    fit = fit_temperature(labeled, groups, bootstrap)
    print(printable(f"{name}: {describe_scores(labeled)}"))
    print(_describe(fit, labeled, bootstrap))
    if warning := _warning(scores.split):
        print(warning)
    state, file = read_weights(weights)
    model = build_model(state, file)
    if calibrated_cut(model.calibration):
        print("how timelines are cut is not kept, since probabilities change; fit it again")
    model.calibration = {"temperature": fit.temperature} | _settled(labeled)
    save_model(model, target, source=file.source, recipe=file.recipe)
    print(printable(f"written to {target}; p3d predict divides its logits by the temperature"))


def _target(out: Path | None, weights: Path) -> Path:
    """Return the file to write.

    Raises:
        UserError: It is the input itself, or has another suffix.
    """
    if out is None:
        return weights.with_name(f"{weights.stem}-calibrated{_SUFFIX}")
    if out.suffix.lower() != _SUFFIX:
        raise UserError(f"--out {out}: weights are written as {_SUFFIX}; give such a name")
    check_place(out, "--out")
    if out.exists() and weights.exists() and out.samefile(weights):
        raise UserError(
            f"--out {out}: is the input itself, whose scores would then be those of another file; "
            "give another name"
        )
    return out


def _check_origin(scores: ScoreFile, name: str, weights: Path) -> None:
    """Check that the scores are those of the weights.

    Raises:
        UserError: They are not, or the weights cannot be read.
    """
    if not scores.weights_sha256:
        raise UserError(
            f"{name}: holds the scores of several networks; give those of the weights alone"
        )
    if scores.holds_means:
        raise UserError(
            f"{name}: holds means over clips; run p3d eval with a number of clips, such as "
            f"--clips {AUTO_CLIPS}"
        )
    check_scored_by(weights, scores.weights_sha256, name, "p3d eval")


def _settled(scores: ScoreFile) -> dict[str, float]:
    """Return the threshold of `--clips auto` as a value of a calibration, and print it.

    Nothing is returned if the scores do not have the clips that "auto" chooses from.
    """
    clips = scores.logits.shape[1]
    if clips != AUTO_CLIPS:
        print(f"--clips auto: not fitted, needs {AUTO_CLIPS} clips a video, these are {clips}")
        return {}
    settled = choose_settled(torch.from_numpy(scores.logits), torch.from_numpy(scores.labels))
    print(f"--clips auto: a video is settled at {settled:g}")
    return {"settled": settled}


def _warning(split: str) -> str:
    """Return what is wrong with fitting a temperature to the scores of a split."""
    if split == "test":
        return (
            "WARNING: these are test scores; probabilities that are fitted to them look better\n"
            "on the test split than on new videos. Use --split validation."
        )
    if split == "train":
        return (
            "WARNING: these are training scores, which are better than those of new videos;\n"
            "the temperature is too low. Use --split validation."
        )
    return ""


def _describe(fit: TemperatureFit, scores: ScoreFile, bootstrap: Bootstrap) -> str:
    """Return the temperature, and what it does to the videos it was fitted to."""
    interval = ""
    if fit.interval is not None:
        interval = f" (95% interval {fit.interval.low:.2f} to {fit.interval.high:.2f})"
    losses = (f"{fit.loss_before:.4f}", f"{fit.loss_after:.4f}")
    measured = zip(*(_errors(scores, each) for each in (1.0, fit.temperature)), strict=True)
    names = ("log loss", f"calibration error ({BINS} bins)", "top-1")
    rows = [(name, *pair) for name, pair in zip(names, (losses, *measured), strict=True)]
    return "\n".join(
        [
            f"temperature {fit.temperature:.4g}{interval}",
            format_table(("on these videos", "before", "after"), rows),
            describe_intervals(number_groups(scores.groups), bootstrap),
        ]
    )


def _errors(scores: ScoreFile, temperature: float) -> tuple[str, str]:
    """Return calibration error and top-1 accuracy at a temperature, as text."""
    probabilities = scores.probabilities(temperature)
    confidence, is_right = probabilities.max(1), probabilities.argmax(1) == scores.labels
    table = reliability(confidence, is_right)
    return format_percent(calibration_error(table)), format_percent(float(is_right.mean()))
