"""A page about a training run: how it went, what its network confuses, and how it was set up.

`report.html` stands for itself: it holds its figures and pictures, and needs no script.
"""

from __future__ import annotations

import importlib.util
import math
from collections import Counter
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any

import tyro

from p3d.report.html import (
    NOTHING,
    count,
    decimal,
    document,
    duration,
    escape,
    notices,
    rate,
    share,
    tiles,
)
from p3d.report.record import RunRecord, number, read_run
from p3d.system.files import write_text

FILE = "report.html"


@dataclass(frozen=True)
class ReportOptions:
    """Write report.html, a page about a training run, into the run's folder."""

    run: Annotated[Path, tyro.conf.Positional]
    """The run's folder: the --out of a `p3d train`."""


def run(options: ReportOptions) -> int:
    """Carry out `p3d report`; returns the exit code.

    Raises:
        UserError: The folder holds no run, or cannot be written.
    """
    path = write_run_report(options.run)
    if path is None:
        return 2
    print(f"written to {path}")
    return 0


def write_run_report(folder: Path) -> Path | None:
    """Write `report.html` from what the folder of a run holds, however little that is.

    Args:
        folder: The run's folder. Videos that its validation.csv names are read as well.

    Returns:
        The page; None where matplotlib is not installed, which is printed.

    Raises:
        UserError: The folder holds no run, or the page cannot be written.
    """
    if importlib.util.find_spec("matplotlib") is None:
        print(f"no {FILE}: it needs matplotlib: pip install 'p3d[report]'")
        return None
    from p3d.report import sections

    record = read_run(folder)
    parts = [
        _headline(record),
        sections.curves(record),
        sections.epochs(record),
        sections.classes(record),
        sections.clips(record),
        sections.events(record),
        sections.configuration(record),
        f"<footer>Written by p3d report from {escape(folder.resolve())}</footer>\n",
    ]
    write_text(folder / FILE, document(f"{_title(record)} · p3d", "".join(parts)))
    return folder / FILE


def _title(record: RunRecord) -> str:
    network, data = record.recipe.get("network", "Training run"), _data(record).get("data")
    return f"{network} on {Path(str(data)).name}" if data else str(network)


def _data(record: RunRecord) -> Mapping[str, Any]:
    data = record.config.get("data")
    return data if isinstance(data, dict) else {}


def _headline(record: RunRecord) -> str:
    config, done = record.config, record.outcome.startswith("finished")
    start = config.get("weights")
    about = [
        {"rgb": "RGB", "flow": "optical flow"}.get(str(config.get("modality")), ""),
        f"variant {config['variant']}" if config.get("variant") else "",
        f"{config['precision']}" if config.get("precision") else "",
        f"{len(record.answers.class_names)} classes" if record.answers else "",
        (f"from {Path(str(start)).name}" if start else "from scratch") if config else "",
        f"fold {_data(record)['fold']}" if _data(record).get("fold", 1) != 1 else "",
        str(record.folder),
    ]
    return (
        f'<header>\n<div class="title"><h1>{escape(_title(record))}</h1>'
        f'<span class="state{" done" if done else ""}">{escape(record.outcome)}</span></div>\n'
        f'<p class="lead">{escape(" · ".join(part for part in about if part))}</p>\n'
        f"{tiles(_figures(record))}{notices(list(_warnings(record)))}</header>\n"
    )


def _figures(record: RunRecord) -> Iterator[tuple[str, str, str]]:
    epochs, best = record.epochs, record.best
    if best is not None:
        epoch = f"epoch {best.get('epoch', '?')}"
        yield "Best validation top-1", share(number(best, "validation_top1")), epoch
        top5 = number(best, "validation_top5")
        yield "Its top-5", share(top5), f"loss {decimal(number(best, 'validation_loss'))}"
    elif epochs:
        last = epochs[-1]
        yield "Training top-1", share(number(last, "train_top1")), "last epoch, no validation"
    planned = record.recipe.get("epochs")
    done = count(number(epochs[-1], "epoch")) if epochs else "0"
    yield "Epochs", f"{done} of {planned}" if planned else done, f"{record.last_step:,} steps"
    seconds = [number(line, "seconds", 0.0) for line in epochs]
    each = f"{duration(sum(seconds) / len(seconds))} an epoch" if seconds else ""
    yield "Training time", duration(sum(seconds)) if seconds else NOTHING, each
    speed, wait = (_mean(record, name) for name in ("clips_per_second", "data_wait"))
    waited = "" if math.isnan(wait) else f"{share(wait)} waiting for data"
    yield "Clips a second", rate(speed), waited


def _mean(record: RunRecord, name: str) -> float:
    """Mean over the epochs by their length, or over the steps where no epoch is over."""
    pairs = [(number(line, name), number(line, "seconds", 1.0)) for line in record.epochs]
    pairs = [pair for pair in pairs if math.isfinite(pair[0])]
    if not pairs:
        steps = [number(line, name) for line in record.steps]
        pairs = [(value, 1.0) for value in steps if math.isfinite(value)]
    weight = sum(weight for _, weight in pairs)
    return sum(value * weight for value, weight in pairs) / weight if weight else math.nan


def _warnings(record: RunRecord) -> Iterator[str]:
    """What the reader should not miss."""
    skipped = max((number(line, "bad_videos", 0) for line in record.epochs), default=0)
    if skipped:
        yield f"Up to {skipped:.0f} videos an epoch could not be read and were skipped."
    lost = [
        line["step"] for line in record.steps if not math.isfinite(number(line, "loss", math.inf))
    ]
    if lost:
        yield f"The loss is no number at {len(lost)} of the steps, the first of them {lost[0]:,}."
    failures = Counter(line["event"] for line in record.others if "fail" in line["event"])
    for event, times in failures.items():
        yield f"{event}: {times:,} in the log, listed under Events."
    if record.answers and record.answers.unread:
        yield f"{record.answers.unread} rows of validation.csv are damaged and left out."
    if not record.config:
        yield "config.json is not there or damaged, so the options of the run are not known."
