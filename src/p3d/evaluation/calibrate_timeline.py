"""`p3d calibrate --truth`: fit how a timeline's scores become segments."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from p3d.errors import UserError, printable
from p3d.evaluation.timeline_fit import Goal, candidates, fit_cut
from p3d.inference.timeline.calibrated import describe_cut, kept_values
from p3d.inference.timeline.cut_options import CutOptions
from p3d.inference.timeline.score_log import KeptScores, holds_window_scores, read_kept_scores
from p3d.inference.timeline.segments import BACKGROUND
from p3d.inference.timeline.timeline import Timeline, make_timeline
from p3d.scores.detection import F1_THRESHOLDS, DetectionFigures, Found, detection_figures
from p3d.scores.segment_file import read_segments, video_key
from p3d.system.progress import ProgressBar
from p3d.system.spelling import ask_meant
from p3d.system.text import counted, format_percent, format_table
from p3d.weights.calibration import check_scored_by
from p3d.weights.describe import read_weights
from p3d.weights.loading import build_model
from p3d.weights.metadata import save_model

_FEW = 20
"""True segments below which the options are not to be trusted."""


def calibrate_timeline(scores: Path, truth: Path, weights: Path, target: Path, goal: Goal) -> None:
    """Fit how scores become segments, print what it does, and save a copy of the weights.

    Args:
        scores: File of `p3d timeline --scores`.
        truth: File of the true segments.
        weights: The weights that gave the scores.
        target: The copy.
        goal: What is maximized.

    Raises:
        UserError: The files cannot be read or do not fit each other, or no segment is found.
    """
    kept = _read(scores, weights)
    true, others = _truth_of(truth, kept, scores)
    state, file = read_weights(weights)
    model = build_model(state, file)
    temperature = model.calibration.get("temperature", 1.0)
    timelines = [
        make_timeline(Path(each.name), each.windows, each.duration, kept.class_names, temperature)
        for each in kept.videos
    ]
    print(printable(f"{scores}: {_describe(timelines, true)}"))
    if others:
        print(f"{counted(others, 'true segment')} of other videos left out")
    if len(true) < _FEW:
        print(f"WARNING: fitted to {counted(len(true), 'segment')}; new videos may need others")
    with ProgressBar(len(candidates(true)), "options", "option", leave=False) as bar:
        fit = fit_cut(timelines, true, goal, bar.advance)
    if not fit.value:
        raise UserError(
            f"{scores}: no options find a segment of {truth}; compare the times, or train longer"
        )
    print(f"segments: {describe_cut(fit.cut)} ({fit.tried:,} options tried)")
    print(_compare(timelines, true, fit.cut))
    model.calibration = {**model.calibration, **kept_values(fit.cut)}
    save_model(model, target, source=file.source, recipe=file.recipe)
    print(printable(f"written to {target}; p3d timeline cuts its scores so"))


def _read(scores: Path, weights: Path) -> KeptScores:
    """Return the scores after checking that they are those of the weights.

    Raises:
        UserError: They are not, or cannot be read.
    """
    if not holds_window_scores(scores):
        remedy = "with --truth, give a file of p3d timeline --scores"
        if not scores.exists():
            raise UserError(f"{scores}: no such file; {ask_meant(scores, remedy)}")
        raise UserError(f"{scores}: {remedy}")
    kept = read_kept_scores(scores)
    check_scored_by(weights, kept.weights, str(scores), "p3d timeline")
    path_of: dict[str, str] = {}
    for video in kept.videos:
        key = video_key(video.name)
        if path_of.setdefault(key, video.name) != video.name:
            raise UserError(
                f"{scores}: {video.name} and {path_of[key]} have the same name; rename one of them"
            )
    return kept


def _truth_of(truth: Path, kept: KeptScores, scores: Path) -> tuple[list[Found], int]:
    """Return the true segments of the videos, and how many others there are.

    Raises:
        UserError: There are none, or one has a class that the network does not know.
    """
    everything = [each for each in read_segments([truth]) if each.label != BACKGROUND]
    videos = {video_key(video.name) for video in kept.videos}
    found = [each for each in everything if each.video in videos]
    if not found:
        raise UserError(
            f"{truth}: has no true segment of the videos of {scores}, such as "
            f"{kept.videos[0].name}; compare the paths"
        )
    unknown = sorted({each.label for each in found} - set(kept.class_names))
    if unknown:
        raise UserError(
            f"{truth}: the network has no class {unknown[0]!r}; its classes are "
            f"{', '.join(kept.class_names[:5])}{', ...' * (len(kept.class_names) > 5)}"
        )
    return found, len(everything) - len(found)


def _describe(timelines: Sequence[Timeline], true: Sequence[Found]) -> str:
    windows = sum(len(timeline.times) for timeline in timelines)
    facts = ((len(timelines), "video"), (windows, "window"), (len(true), "true segment"))
    return ", ".join(counted(*fact) for fact in facts)


def _compare(timelines: Sequence[Timeline], true: Sequence[Found], cut: CutOptions) -> str:
    """Return the figures by the defaults and by the fitted options as a table."""
    before, after = (_figures(timelines, true, options) for options in (CutOptions(), cut))
    rows = [
        (name, *(format_percent(float(value)) for value in pair))
        for name, *pair in (
            (
                "average mAP, tIoU 0.5 to 0.95",
                before.mean_average_precision.mean(),
                after.mean_average_precision.mean(),
            ),
            *zip(_F1_NAMES, before.f1, after.f1, strict=True),
        )
    ]
    rows.append(("found segments", f"{before.found_segments:,}", f"{after.found_segments:,}"))
    return format_table(("on these videos", "default", "fitted"), rows)


_F1_NAMES = tuple(f"segmental F1@{100 * threshold:g}" for threshold in F1_THRESHOLDS)


def _figures(
    timelines: Sequence[Timeline], true: Sequence[Found], options: CutOptions
) -> DetectionFigures:
    found = [
        Found(video_key(timeline.name), *segment)
        for timeline in timelines
        for segment in timeline.cut(options).segments
    ]
    return detection_figures(found, true)
