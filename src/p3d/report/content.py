"""The content of a run's page as plain data; `templates/run.html` holds the markup."""

from __future__ import annotations

import base64
import math
from collections import Counter
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any

from p3d.errors import BadVideoError, UserError
from p3d.evaluation.output import draw_confusion
from p3d.report.curves import draw_curves
from p3d.report.figures import Chart, figure_style, make_chart
from p3d.report.record import Line, Predictions, RunRecord, number
from p3d.report.render import MISSING, count, decimal, duration, percent, rate
from p3d.video.thumbnails import encode_jpeg, video_strip

_MAX_VIDEOS = 6
_MAX_MISTAKES = 8
_MAX_EVENTS = 20


def run_content(record: RunRecord) -> dict[str, Any]:
    """Return the variables of the template `run.html`."""
    predictions = record.predictions
    content: dict[str, Any] = {
        "record": record,
        "title": _title(record),
        "state": record.outcome,
        "done": record.outcome.startswith("finished"),
        "source": record.folder.resolve(),
        "about": " · ".join(filter(None, _about(record))),
        "tiles": list(_tiles(record)),
        "warnings": list(_warnings(record)),
        "charts": draw_curves(record),
        "epochs": _epoch_table(record),
        "events": [_event(line) for line in record.events[-_MAX_EVENTS:]],
        "settings": _settings(record),
    }
    if predictions is not None:
        correct, wrong = predictions.most_confident
        content |= {
            "matrix": _draw_matrix(predictions),
            "classes": _classes(predictions),
            "mistakes": predictions.mistakes(_MAX_MISTAKES),
            "correct": [_video(predictions, index) for index in correct[:_MAX_VIDEOS]],
            "wrong": [_video(predictions, index) for index in wrong[:_MAX_VIDEOS]],
        }
    return content


def _title(record: RunRecord) -> str:
    network, data = record.recipe.get("network", "Training run"), record.data.get("data")
    return f"{network} on {Path(str(data)).name}" if data else str(network)


def _about(record: RunRecord) -> Iterator[str]:
    config, weights, fold = record.config, record.config.get("weights"), record.data.get("fold", 1)
    yield {"rgb": "RGB", "flow": "optical flow"}.get(str(config.get("modality")), "")
    yield f"variant {config['variant']}" if config.get("variant") else ""
    yield str(config.get("precision") or "")
    yield f"{len(record.predictions.class_names)} classes" if record.predictions else ""
    yield (f"from {Path(str(weights)).name}" if weights else "from scratch") if config else ""
    yield f"fold {fold}" if fold != 1 else ""
    yield str(record.folder)


def _tiles(record: RunRecord) -> Iterator[tuple[str, str, str]]:
    """Yield the main results: name, value, remark."""
    epochs, best = record.epochs, record.best
    if best is not None:
        epoch = f"epoch {best.get('epoch', '?')}"
        yield "Best validation top-1", percent(number(best, "validation_top1")), epoch
        loss = f"loss {decimal(number(best, 'validation_loss'))}"
        yield "Top-5 of that epoch", percent(number(best, "validation_top5")), loss
    elif epochs:
        top1 = percent(number(epochs[-1], "train_top1"))
        yield "Training top-1", top1, "last epoch, no validation"
    planned = record.recipe.get("epochs")
    done = count(number(epochs[-1], "epoch")) if epochs else "0"
    yield "Epochs", f"{done} of {planned}" if planned else done, f"{record.last_step:,} steps"
    seconds = [number(line, "seconds", 0.0) for line in epochs]
    mean = f"{duration(sum(seconds) / len(seconds))} per epoch" if seconds else ""
    yield "Training time", duration(sum(seconds)) if seconds else MISSING, mean
    wait = _mean(record, "data_wait")
    waiting = "" if math.isnan(wait) else f"{percent(wait)} waiting for data"
    yield "Clips per second", rate(_mean(record, "clips_per_second")), waiting


def _mean(record: RunRecord, name: str) -> float:
    """Return the mean over the epochs, weighted by their time, or else over the steps."""
    for lines in (record.epochs, record.steps):
        pairs = [(number(line, name), number(line, "seconds", 1.0)) for line in lines]
        pairs = [pair for pair in pairs if math.isfinite(pair[0])]
        if weight := sum(weight for _, weight in pairs):
            return sum(value * weight for value, weight in pairs) / weight
    return math.nan


def _warnings(record: RunRecord) -> Iterator[str]:
    skipped = max((number(line, "bad_videos", 0) for line in record.epochs), default=0)
    if skipped:
        yield f"Up to {skipped:.0f} videos per epoch could not be read and were skipped."
    lost = [
        line["step"] for line in record.steps if not math.isfinite(number(line, "loss", math.inf))
    ]
    if lost:
        steps = f"{len(lost):,} of the steps, the first is {lost[0]:,}"
        yield f"The loss is not a finite number at {steps}."
    failures = Counter(line["event"] for line in record.events if "fail" in line["event"])
    for event, times in failures.items():
        yield f"{event}: {times:,} in the log, see Events."
    if record.predictions and record.predictions.num_damaged:
        yield f"{record.predictions.num_damaged} damaged rows of validation.csv were skipped."
    if not record.config:
        yield "config.json is missing or damaged, so the options of the run are unknown."


_EPOCH_COLUMNS: tuple[tuple[str, str, Callable[[float], str]], ...] = (
    ("train_loss", "training loss", decimal),
    ("train_top1", "training top-1", percent),
    ("train_top5", "training top-5", percent),
    ("validation_loss", "validation loss", decimal),
    ("validation_top1", "validation top-1", percent),
    ("validation_top5", "validation top-5", percent),
    ("seconds", "time", duration),
    ("clips_per_second", "clips/s", rate),
    ("data_wait", "data wait", percent),
    ("bad_videos", "skipped", count),
    ("overflows", "overflows", count),
)


def _epoch_table(record: RunRecord) -> dict[str, Any]:
    lines = record.epochs
    shown = [entry for entry in _EPOCH_COLUMNS if any(entry[0] in line for line in lines)]
    return {
        "header": ["epoch", *(heading for _, heading, _ in shown)],
        "rows": [
            [line.get("epoch", MISSING), *(form(number(line, name)) for name, _, form in shown)]
            for line in lines
        ],
        "best": next((i for i, line in enumerate(lines) if line is record.best), None),
    }


def _event(line: Line) -> tuple[str, str, str]:
    details = [f"{key} {value}" for key, value in line.items() if key not in ("event", "step")]
    return f"{line['step']:,}", line["event"], ", ".join(details)


def _draw_matrix(predictions: Predictions) -> Chart:
    accuracy, names = predictions.accuracy, predictions.class_names
    correct = int(accuracy.confusion.trace())
    with figure_style():
        return make_chart(
            draw_confusion(accuracy, names, side=5.4),
            "Confusion matrix",
            "Rows: true classes. Columns: predictions. Color: fraction of the row.",
            f"{len(names)} classes, {correct} of {accuracy.videos} videos on the diagonal",
        )


def _classes(predictions: Predictions) -> list[tuple[int, str, int, float | None]]:
    """Return number, name, number of videos and accuracy of each class, lowest accuracy first."""
    accuracy = predictions.accuracy
    rows = [
        (number, name, metrics.videos, metrics.top1)
        for number, (name, metrics) in enumerate(
            zip(predictions.class_names, accuracy.per_class, strict=True), 1
        )
    ]
    return sorted(rows, key=lambda row: (row[3] is None, row[3]))


def _video(predictions: Predictions, index: int) -> dict[str, Any]:
    """Return a prediction with thumbnails as base64, or with the reason why there are none."""
    path, scores = Path(predictions.paths[index]), predictions.scores[index].nan_to_num(0.0)
    label, predicted = int(predictions.labels[index]), int(scores.argmax())
    video = {
        "path": path,
        "label": predictions.class_names[label],
        "label_score": float(scores[label]),
        "predicted": predictions.class_names[predicted],
        "score": float(scores[predicted]),
    }
    try:
        return video | {"jpeg": base64.b64encode(encode_jpeg(video_strip(path))).decode()}
    except (UserError, ValueError) as error:
        return video | {"reason": error.reason if isinstance(error, BadVideoError) else str(error)}


def _settings(record: RunRecord) -> list[tuple[str, list[tuple[str, str | None]]]]:
    """Return titles and values of the recipe, the other options and the environment."""
    options = {name: value for name, value in record.config.items() if name != "recipe"}
    parts = {"Recipe": record.recipe, "Options": options, "Environment": record.environment}
    return [(title, list(_flatten(values))) for title, values in parts.items() if values]


def _flatten(values: Mapping[str, Any]) -> Iterator[tuple[str, str | None]]:
    for name, value in values.items():
        if isinstance(value, dict):
            yield from _flatten(value)
        else:
            yield name.replace("_", " "), _format(value)


def _format(value: object) -> str | None:
    if value is None or value == []:
        return None
    if isinstance(value, bool):
        return "yes" if value else "no"
    if isinstance(value, list):
        return ", ".join(map(str, value))
    return f"{value:g}" if isinstance(value, float) else str(value)
