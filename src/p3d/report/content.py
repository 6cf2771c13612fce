"""The content of a run's page as plain data; `templates/run.html` holds the markup."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

from p3d.report.curves import draw_learning, draw_machine
from p3d.report.evaluations import Evaluation
from p3d.report.events import describe_events, is_failure
from p3d.report.lines import number
from p3d.report.matrix import draw_matrix
from p3d.report.record import Predictions, RunRecord
from p3d.report.render import MISSING, count, decimal, duration, minute, percent, rate, short_path
from p3d.report.settings import Settings, list_settings
from p3d.report.strips import embed_strip

_MAX_VIDEOS = 6
_MAX_MISTAKES = 8
_MAX_EVENTS = 20

_CALL = ("date", "command", "folder")
"""Keys of environment.json about the call, which the head of the page shows."""


def run_content(record: RunRecord) -> dict[str, Any]:
    """Return the variables of the template `run.html`."""
    events = describe_events(record.log)
    content: dict[str, Any] = {
        "record": record,
        "title": _title(record),
        "state": record.outcome,
        "done": record.outcome.startswith("finished"),
        "source": short_path(record.folder),
        "about": " · ".join(filter(None, _about(record))),
        "commands": record.commands,
        "tiles": list(_tiles(record)),
        "warnings": list(_warnings(record)),
        "evaluations": _evaluation_table(record) if record.evaluations else None,
        "learning": draw_learning(record),
        "machine": draw_machine(record),
        "epochs": _epoch_table(record),
        "num_events": len(events),
        "events": events[-_MAX_EVENTS:],
        "settings": _settings(record),
    }
    if record.shown is not None:
        content |= _prediction_content(record, *record.shown)
    return content


def _prediction_content(record: RunRecord, name: str, predictions: Predictions) -> dict[str, Any]:
    correct, wrong = predictions.most_confident
    return {
        "list": name,
        "predictions": predictions,
        "matrix": draw_matrix(predictions.accuracy.confusion, predictions.class_names),
        "classes": _classes(predictions),
        "mistakes": predictions.mistakes(_MAX_MISTAKES),
        "correct": [_video(record, predictions, index) for index in correct[:_MAX_VIDEOS]],
        "wrong": [_video(record, predictions, index) for index in wrong[:_MAX_VIDEOS]],
    }


def _title(record: RunRecord) -> str:
    network, data = record.recipe.get("network", "Training run"), record.data.get("data")
    return f"{network} on {Path(str(data)).name}" if data else str(network)


def _about(record: RunRecord) -> Iterator[str]:
    config, weights, fold = record.config, record.config.get("weights"), record.data.get("fold", 1)
    yield minute(record.start.get("date") or record.environment.get("date"))
    yield {"rgb": "RGB", "flow": "optical flow"}.get(str(config.get("modality")), "")
    yield f"variant {config['variant']}" if config.get("variant") else ""
    yield str(config.get("precision") or "")
    yield f"{len(record.shown[1].class_names)} classes" if record.shown else ""
    yield (f"from {Path(str(weights)).name}" if weights else "from scratch") if config else ""
    yield f"fold {fold}" if fold != 1 else ""
    yield short_path(record.folder)


def _tiles(record: RunRecord) -> Iterator[tuple[str, str, str]]:
    """Yield the main results: name, value, remark."""
    if record.test is not None:
        metrics = record.test.metrics
        mean = f"mean class {percent(number(metrics, 'mean_class'))}"
        videos = f"{count(number(metrics, 'videos'))} videos, {mean}"
        yield "Test top-1", percent(number(metrics, "top1")), videos
    epochs, best = record.epochs, record.best
    if best is not None:
        epoch = f"epoch {best.get('epoch', '?')}"
        loss = f"loss {decimal(number(best, 'validation_loss'))}"
        remark = epoch if record.shows_top5 else f"{epoch}, {loss}"
        yield "Best validation top-1", percent(number(best, "validation_top1")), remark
        if record.shows_top5:
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
    for evaluation in record.evaluations:
        yield from evaluation.warnings()
    skipped = max((number(line, "bad_videos", 0) for line in record.epochs), default=0)
    if skipped:
        yield f"Up to {skipped:.0f} videos per epoch could not be read and were skipped."
    lost = [
        line["step"] for line in record.steps if not math.isfinite(number(line, "loss", math.inf))
    ]
    if lost:
        steps = f"{len(lost):,} of the steps, the first is {lost[0]:,}"
        yield f"The loss is not a finite number at {steps}."
    if failures := sum(map(is_failure, record.log)):
        times = "once" if failures == 1 else f"{failures:,} times"
        yield f"Files could not be saved {times}, see Events."
    if record.shown is not None and record.shown[1].num_damaged:
        name, predictions = record.shown
        yield f"{predictions.num_damaged} damaged rows of the {name} scores were skipped."
    if not record.config:
        yield "config.json is missing or damaged, so the options of the run are unknown."


def _evaluation_table(record: RunRecord) -> dict[str, Any]:
    columns: list[tuple[str, Callable[[Evaluation], str]]] = [
        ("list", lambda e: e.split),
        ("videos", lambda e: count(number(e.metrics, "videos"))),
        ("top-1", lambda e: percent(number(e.metrics, "top1"))),
        ("top-5", lambda e: percent(number(e.metrics, "top5"))),
        ("mean class", lambda e: percent(number(e.metrics, "mean_class"))),
        ("loss", lambda e: decimal(number(e.metrics, "loss"))),
        ("clips", lambda e: count(number(e.options, "clips"))),
        ("date", lambda e: minute(e.metrics.get("date")) or MISSING),
    ]
    shown = [entry for entry in columns if entry[0] != "top-5" or record.shows_top5]
    return {
        "header": [heading for heading, _ in shown],
        "rows": [[form(evaluation) for _, form in shown] for evaluation in record.evaluations],
    }


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
    shown = [
        entry
        for entry in _EPOCH_COLUMNS
        if any(entry[0] in line for line in lines)
        and (record.shows_top5 or not entry[0].endswith("top5"))
    ]
    return {
        "header": ["epoch", *(heading for _, heading, _ in shown)],
        "rows": [
            [line.get("epoch", MISSING), *(form(number(line, name)) for name, _, form in shown)]
            for line in lines
        ],
        "best": next((i for i, line in enumerate(lines) if line is record.best), None),
    }


def _classes(predictions: Predictions) -> list[dict[str, Any]]:
    """Return number, name and metrics of each class, lowest accuracy first."""
    named = zip(predictions.class_names, predictions.accuracy.per_class, strict=True)
    rows = [
        {"number": number, "name": name, "metrics": metrics}
        for number, (name, metrics) in enumerate(named, 1)
    ]
    return sorted(rows, key=lambda row: (row["metrics"].top1 is None, row["metrics"].top1))


def _video(record: RunRecord, predictions: Predictions, index: int) -> dict[str, Any]:
    """Return a prediction with thumbnails as base64, or with the reason why there are none."""
    path, scores = Path(predictions.paths[index]), predictions.scores[index].nan_to_num(0.0)
    label, predicted = int(predictions.labels[index]), int(scores.argmax())
    video = {
        "name": path.name,
        "label": predictions.class_names[label],
        "label_score": float(scores[label]),
        "predicted": predictions.class_names[predicted],
        "score": float(scores[predicted]),
    }
    return video | embed_strip(path, record.starting_folder)


def _settings(record: RunRecord) -> Settings:
    """Return titles and values of the recipe, the other options and the environment."""
    options = {name: value for name, value in record.config.items() if name != "recipe"}
    machine = {name: value for name, value in record.environment.items() if name not in _CALL}
    return list_settings({"Recipe": record.recipe, "Options": options, "Environment": machine})
