"""`p3d metrics`: every figure of an evaluation from its scores, without network or videos."""

from __future__ import annotations

import sys
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from p3d.errors import UserError, printable
from p3d.run_folder import LOGITS_FILE, METRICS_FILE
from p3d.scores.accuracy import shows_top5
from p3d.scores.alignment import Named, pool
from p3d.scores.calibration import BINS
from p3d.scores.figures import Figures, compute_figures
from p3d.scores.output import write_figures
from p3d.scores.resampling import Bootstrap
from p3d.scores.score_file import ScoreFile, read_score_file
from p3d.scores.tables import (
    class_table,
    coverage_table,
    describe_clips,
    describe_intervals,
    format_interval,
    headline_table,
    pair_table,
    reliability_table,
)
from p3d.system.files import replacing_together, write_json
from p3d.system.folders import results_folder
from p3d.system.markers import First, Positional
from p3d.system.options import check_least
from p3d.system.text import counted, format_percent, format_table, json_line, shorten_path


@dataclass(frozen=True)
class MetricsOptions:
    """Compute every figure of an evaluation from its scores, without network or videos."""

    scores: Positional[tuple[Path, ...]]
    """Folders that p3d eval wrote to, or their scores.npz. Several give one line each."""
    out: First[Path | None] = None
    """Folder for metrics.json, per_class.csv, confused_pairs.csv, confusion.csv, reliability.csv,
    coverage.csv and confusion.png; by default the figures are only printed."""
    pool: bool = False
    """Measure the videos of all folders together, as those of the folds of a cross-validation."""
    temperature: float = 1.0
    """Divide every clip's logits by this number, as p3d calibrate finds it."""
    bins: int = BINS
    """Bins of the reliability table and of the calibration error."""
    resamples: int = 2000
    """Draws of the bootstrap."""
    seed: int = 0
    """Seed of the bootstrap."""
    top: int = 10
    """Classes, and pairs of classes, to show: those with the most mistakes."""
    json: bool = False
    """Print one JSON object a line instead of tables."""


def run(options: MetricsOptions) -> None:
    """Run `p3d metrics`.

    Raises:
        UserError: The options are out of range, or a file cannot be read.
    """
    _check(options)
    files = read_named(options.scores)
    if options.pool:
        files = [Named(f"{counted(len(files), 'folder')} together", pool(files))]
    if options.out is not None and len(files) > 1:
        raise UserError("--out takes the figures of one folder; give one, or --pool")
    _check_temperature(files, options.temperature)
    bootstrap = Bootstrap(options.resamples, options.seed)
    found = [
        compute_figures(
            scores, bootstrap, temperature=options.temperature, bins=options.bins, name=name
        )
        for name, scores in files
    ]
    if options.json:
        for file, figures in zip(files, found, strict=True):
            sys.stdout.write(json_line(_plain(file, figures, bootstrap)) + "\n")
    elif len(files) > 1:
        print(_summary(files, found, bootstrap))
    else:
        print(_report(files[0], found[0], bootstrap, options.top))
    if options.out is not None:
        _write(options.out, files[0], found[0], bootstrap)


def _check(options: MetricsOptions) -> None:
    if not options.scores:
        raise UserError("no scores were given; give a folder that p3d eval wrote to")
    if options.temperature <= 0:
        raise UserError(f"--temperature is {options.temperature}; give a number above 0")
    check_least(1, bins=options.bins, resamples=options.resamples, top=options.top)
    check_least(0, seed=options.seed)
    folders = {path if path.is_dir() else path.parent for path in options.scores}
    if options.out is not None and options.out.resolve() in {each.resolve() for each in folders}:
        raise UserError(
            f"--out {options.out}: holds the files of p3d eval, which would be replaced; give "
            "another folder"
        )


def _check_temperature(files: Sequence[Named], temperature: float) -> None:
    for name, scores in files:
        if temperature != 1 and scores.holds_means:
            raise UserError(
                f"--temperature {temperature:g}: {name} holds means over clips, and the logits of "
                "single clips are divided; give scores of p3d eval with a number of clips"
            )


def read_named(paths: Sequence[Path]) -> list[Named]:
    """Read the scores of several evaluations, under the names that the user gave.

    Raises:
        UserError: One cannot be read, or is given twice.
    """
    seen = set[Path]()
    for path in paths:
        file = (path / LOGITS_FILE if path.is_dir() else path).resolve()
        if file in seen:
            raise UserError(f"{path}: is given twice")
        seen.add(file)
    return [Named(str(path), read_score_file(path)) for path in paths]


def describe_scores(scores: ScoreFile) -> str:
    """Return what was scored: `240 videos, 12 classes, 5 clips a video, test split`."""
    facts = [counted(len(scores.paths), "video"), counted(len(scores.class_names), "class")]
    facts.append(describe_clips(scores))
    return ", ".join(facts + ([f"{scores.split} split"] if scores.split else []))


def _plain(file: Named, figures: Figures, bootstrap: Bootstrap) -> dict[str, Any]:
    names, accuracy = file.scores.class_names, figures.accuracy
    return {
        "scores": file.name,
        "split": file.scores.split,
        "weights_sha256": file.scores.weights_sha256,
        "classes": len(names),
        **figures.plain(),
        "resamples": bootstrap.resamples,
        "seed": bootstrap.seed,
        "per_class": [
            {
                "class": name,
                "videos": each.videos,
                "precision": each.precision,
                "recall": each.top1,
                "f1": each.f1,
                "average_precision": precision,
            }
            for name, each, precision in zip(
                names, accuracy.per_class, figures.average_precision, strict=True
            )
        ],
        "confused_pairs": [
            {
                "class": names[pair.truth],
                "answer": names[pair.answer],
                "videos": pair.videos,
                "fraction": pair.fraction,
            }
            for pair in accuracy.confused_pairs
        ],
    }


def _report(file: Named, figures: Figures, bootstrap: Bootstrap, top: int) -> str:
    """Return all tables of one evaluation."""
    names = file.scores.class_names
    return "\n\n".join(
        [
            f"{printable(file.name)}: {describe_scores(file.scores)}\n"
            + headline_table(figures, bootstrap),
            class_table(figures, names, top),
            pair_table(figures, names, top),
            reliability_table(figures),
            coverage_table(figures),
        ]
    )


def _summary(files: Sequence[Named], found: Sequence[Figures], bootstrap: Bootstrap) -> str:
    """Return one line for each of several evaluations."""
    header = ["scores", "videos", "top-1", "95% interval", "top-5", "class", "loss", "ECE"]
    rows = [
        [
            shorten_path(printable(file.name)),
            str(figures.accuracy.videos),
            format_percent(figures.accuracy.top1),
            format_interval(figures.intervals["top1"]).replace(" to ", "-"),
            format_percent(figures.accuracy.top5),
            format_percent(figures.accuracy.mean_class),
            f"{figures.loss:.2f}",
            format_percent(figures.calibration_error),
        ]
        for file, figures in zip(files, found, strict=True)
    ]
    if not all(shows_top5(len(file.scores.class_names)) for file in files):
        for row in (header, *rows):
            del row[4]
    notes = dict.fromkeys(describe_intervals(figures.groups, bootstrap) for figures in found)
    return "\n".join([format_table(header, rows), *notes])


def _write(folder: Path, file: Named, figures: Figures, bootstrap: Bootstrap) -> None:
    with results_folder(folder), replacing_together(folder, last=METRICS_FILE) as drafts:
        write_json(drafts / METRICS_FILE, _plain(file, figures, bootstrap))
        write_figures(drafts, figures, file.scores.class_names)
    print(printable(f"written to {folder}: {METRICS_FILE} and the tables as CSV"), file=sys.stderr)
