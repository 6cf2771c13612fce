"""The content of an evaluation's page as plain data; `templates/evaluation.html` has the markup."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from p3d.data.dataset import SPLITS
from p3d.report.audit import audit_content
from p3d.report.lines import as_dict, number
from p3d.report.matrix import NAMED, draw_matrix
from p3d.report.render import MISSING, count, decimal, duration, minute, percent, rate, short_path
from p3d.report.scored import ScoredRecord
from p3d.report.scored_charts import draw_coverage, draw_reliability
from p3d.report.settings import Settings, list_settings
from p3d.report.strips import embed_strip
from p3d.run_folder import BEST_FILE, LAST_FILE
from p3d.scores.accuracy import ConfusedPair, shows_top5
from p3d.scores.resampling import Interval
from p3d.scores.tables import describe_clips, describe_intervals
from p3d.system.text import counted

MATRIX_CLASSES = 400
"""Most classes whose confusion matrix is drawn."""
_MAX_PAIRS = 50
_MAX_VIDEOS = 8


def scored_content(record: ScoredRecord) -> dict[str, Any]:
    """Return the variables of the template `evaluation.html`."""
    names, accuracy = record.scores.class_names, record.figures.accuracy
    warnings, pairs = list(_warnings(record)), accuracy.confused_pairs
    command, split = record.evaluation.metrics.get("command"), record.scores.split
    return {
        "record": record,
        "title": _title(record),
        "state": f"{split} list" if split in SPLITS else split or "scores",
        "done": not warnings,
        "source": short_path(record.folder),
        "about": " · ".join(filter(None, _about(record))),
        "commands": [str(command)] if command else [],
        "tiles": list(_tiles(record)),
        "warnings": warnings,
        "intervals": describe_intervals(record.figures.groups, record.bootstrap).split("\n"),
        "matrix": draw_matrix(accuracy.confusion, names) if len(names) <= MATRIX_CLASSES else None,
        "numbered": len(names) > NAMED,
        "max_classes": MATRIX_CLASSES,
        "classes": _classes(record),
        "num_pairs": len(pairs),
        "pairs": [_pair(pair, names) for pair in pairs[:_MAX_PAIRS]],
        "confused": _confused_videos(record, pairs),
        "reliability": draw_reliability(record.figures, record.calibrated),
        "coverage": draw_coverage(record.shown),
        "thresholds": _thresholds(record),
        "motion": [_motion_row(row) for row in record.motion],
        "motion_intervals": _motion_intervals(record),
        "audit": audit_content(record.audit, record.starting_folder) if record.audit else None,
        "settings": _settings(record),
    }


def _title(record: ScoredRecord) -> str:
    options = record.evaluation.options
    weights, data = Path(str(options.get("weights", ""))), as_dict(options.get("data")).get("data")
    if not data:
        return record.folder.resolve().name or "Evaluation"
    # The folder of a run says more than the name that the file has in every run.
    named = weights.parent.name if weights.name in (BEST_FILE, LAST_FILE) else weights.stem
    return f"{named or weights.stem} on {Path(str(data)).name}"


def _about(record: ScoredRecord) -> Iterator[str]:
    scores = record.scores
    yield minute(record.evaluation.metrics.get("date"))
    yield counted(len(scores.paths), "video")
    yield counted(len(scores.class_names), "class")
    yield describe_clips(record.scores)
    yield short_path(record.folder)


def _tiles(record: ScoredRecord) -> Iterator[tuple[str, str, str]]:
    """Yield the headline figures: name, value, interval or remark."""
    figures, intervals = record.figures, record.figures.intervals
    accuracy = figures.accuracy
    yield "Top-1", percent(accuracy.top1), _interval(intervals["top1"])
    if shows_top5(len(record.scores.class_names)):
        yield "Top-5", percent(accuracy.top5), _interval(intervals["top5"])
    yield "Mean class", percent(accuracy.mean_class), _interval(intervals["mean_class"])
    yield "Mean average precision", percent(figures.mean_average_precision), "over the classes"
    limits = intervals["loss"]
    remark = "" if limits is None else f"95%: {limits.low:.3f} to {limits.high:.3f}"
    yield "Log loss", decimal(figures.loss), remark
    yield "Calibration error", percent(figures.calibration_error), _calibrated(record)


def _interval(interval: Interval | None) -> str:
    return "" if interval is None else f"95%: {percent(interval.low)} to {percent(interval.high)}"


def _calibrated(record: ScoredRecord) -> str:
    """Return what the temperature does to the calibration error."""
    if record.calibrated is None:
        return f"ECE, {record.figures.bins} bins"
    after = percent(record.calibrated.calibration_error)
    return f"{after} with temperature {record.calibrated.temperature:.3g}"


def _warnings(record: ScoredRecord) -> Iterator[str]:
    scores, metrics = record.scores, record.evaluation.metrics
    yield from record.evaluation.warnings()
    if record.figures.unlabeled:
        yield f"{counted(record.figures.unlabeled, 'video')} without a class: left out."
    if scores.split == "train":
        yield "These are training videos; the figures do not show how well it does on new videos."
    order = scores.protocol.get("order", "ordered")
    if order != "ordered":
        yield f"The frames were {order}: these figures are not the network's accuracy."
    if number(metrics, "seen", 1) < 1:
        part = percent(number(metrics, "seen"))
        yield f"The clips span {part} of the frames of a video on average."


def _classes(record: ScoredRecord) -> list[dict[str, Any]]:
    """Return the metrics of each class, lowest F1 first; classes without videos come last."""
    figures = record.figures
    rows = [
        {
            "number": number,
            "name": name,
            "videos": each.videos,
            "values": (each.precision, each.top1, each.f1, precision),
        }
        for number, (name, each, precision) in enumerate(
            zip(
                record.scores.class_names,
                figures.accuracy.per_class,
                figures.average_precision,
                strict=True,
            ),
            1,
        )
    ]
    return sorted(rows, key=lambda row: (not row["videos"], row["values"][2] or 0))


def _pair(pair: ConfusedPair, names: Sequence[str]) -> tuple[str, str, str, str]:
    return names[pair.truth], names[pair.answer], count(pair.videos), percent(pair.fraction)


def _confused_videos(record: ScoredRecord, pairs: Sequence[ConfusedPair]) -> list[dict[str, Any]]:
    """Return videos of the largest pairs with thumbnails, the most certain mistakes of each."""
    probabilities, labels = record.scores.probabilities(), record.scores.labels
    confidence, answers = probabilities.max(1), probabilities.argmax(1)
    each = max(1, _MAX_VIDEOS // len(pairs)) if pairs else 0
    videos = []
    for pair in pairs[:_MAX_VIDEOS]:
        found = np.flatnonzero((labels == pair.truth) & (answers == pair.answer))
        best = found[np.argsort(-confidence[found], kind="stable")][:each]
        videos += [_video(record, index, probabilities[index]) for index in best.tolist()]
    return videos


def _video(record: ScoredRecord, index: int, probabilities: Any) -> dict[str, Any]:
    """Return a video with its class, the answer, and thumbnails or the reason why there are none.

    Args:
        record: The evaluation.
        index: Position of the video among those with a label.
        probabilities: `(num_classes,)`.
    """
    names, path = record.scores.class_names, Path(record.scores.paths[index])
    label, answer = int(record.scores.labels[index]), int(probabilities.argmax())
    return {
        "name": path.name,
        "label": names[label],
        "label_score": float(probabilities[label]),
        "predicted": names[answer],
        "score": float(probabilities[answer]),
        **embed_strip(path, record.starting_folder),
    }


def _thresholds(record: ScoredRecord) -> list[tuple[str, str, str, str]]:
    return [
        (decimal(row.threshold), count(row.answered), percent(row.coverage), percent(row.accuracy))
        for row in record.shown.coverage
    ]


def _motion_intervals(record: ScoredRecord) -> str:
    """Return what the intervals of the orders are, which earlier files took over videos."""
    if all("groups" in row for row in record.motion):
        return f"is from a bootstrap over {record.figures.groups.describe()}"
    return "takes videos as independent"


def _motion_row(row: Mapping[str, Any]) -> tuple[str, ...]:
    figures = (percent(number(row, "top1")), percent(number(row, "mean_class")))
    if row.get("frames") == "ordered":
        return ("ordered", *figures, "", "", "", "", "")
    points = [100 * number(row, name) for name in ("difference", "low", "high")]
    changes = [count(number(row, name)) for name in ("lost", "gained", "changed")]
    has_interval = all(map(math.isfinite, points))
    difference = (
        f"{points[0]:+.1f}",
        f"{points[1]:+.0f} to {points[2]:+.0f}" if has_interval else "",
    )
    return (str(row.get("frames")), *figures, *difference, *changes)


def _settings(record: ScoredRecord) -> Settings:
    """Return how the videos were scored, by which weights, and what it cost."""
    metrics, protocol = record.evaluation.metrics, dict(record.scores.protocol)
    prep = as_dict(protocol.pop("preprocessing", None))
    pooled = protocol.pop("pooled", None)
    if isinstance(pooled, list):
        protocol["pooled files"] = len(pooled)
    options = record.evaluation.options
    sources = {
        **({"weights": options["weights"]} if "weights" in options else {}),
        "SHA-256 of the weights": record.scores.weights_sha256 or "several networks",
        **as_dict(options.get("data")),
    }
    parts = {
        "Protocol": protocol,
        "Cost": _cost(metrics),
        "Preprocessing": prep,
        "Weights and data": sources,
    }
    return list_settings(parts)


def _cost(metrics: Mapping[str, Any]) -> dict[str, str]:
    """Return time and speed of an evaluation; empty if an earlier version measured it."""
    seconds, clips = number(metrics, "seconds"), number(metrics, "clips_scored")
    if not seconds > 0:
        return {}
    return {
        "time": duration(seconds),
        "clips": count(clips),
        "clips per second": rate(clips / seconds),
        "videos per second": rate(number(metrics, "videos") / seconds),
        "device": str(metrics.get("device", MISSING)),
        "precision": str(metrics.get("precision", MISSING)),
    }
