"""`p3d probe`: accuracy of a linear classifier on features, on held-out videos.

Features are the mean over a video's clips, of which the signed square root is scaled to length 1,
as the authors of the paper did before a linear support vector machine. Then the mean of the
training videos is subtracted.
"""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import nullcontext
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Literal, NamedTuple

import numpy as np
from numpy.typing import NDArray

from p3d.errors import UserError
from p3d.evaluation.held_out import describe_held_out, write_held_out
from p3d.evaluation.linear import Kind, LinearClassifier, check_installed, normalize
from p3d.evaluation.probe_folds import (
    Fold,
    capture_groups,
    check_classes,
    folds_by_group,
    folds_by_split,
    folds_of_ucf101,
)
from p3d.inference.feature_file import read_features
from p3d.inference.feature_index import FeatureIndex, FeatureSet
from p3d.scores.score_file import ScoreFile
from p3d.system.folders import results_folder
from p3d.system.markers import First, Positional
from p3d.system.progress import ProgressBar
from p3d.system.text import counted, format_percent, format_table


@dataclass(frozen=True)
class ProbeOptions:
    """Measure a linear classifier on features of p3d features, on videos held out of training."""

    features: Positional[tuple[Path, ...]]
    """Files or folders of features; several are taken as one set."""
    folds: First[Literal["split", "groups"] | int] = "split"
    """split: train on the training and validation videos, measure on the test videos; groups: leave
    one group out in turn; a number: that many folds of whole groups."""
    ucf101: First[Path | None] = None
    """Data set in the layout of UCF101: take its three official splits as folds."""
    group_pattern: First[str | None] = None
    """Regular expression with one pair of parentheses that captures the group in a video's name
    without suffix (with a slash: in its path), in place of the groups in the file."""
    classifier: First[Kind] = "svm"
    """svm: linear support vector machines, one for each class; logistic: logistic regression."""
    c: First[float | None] = None
    """Weight of the training errors; by default the best of 0.01 to 1000 in three folds of the
    training videos, which keep groups together."""
    out: First[Path | None] = None
    """Folder for scores.npz (decision values or log-probabilities of the held-out videos),
    folds.csv, per_class.csv and confusion.csv; by default the result is only printed."""


class FoldResult(NamedTuple):
    """What a fold gave: its name, number of test videos, accuracy in [0, 1], and C."""

    name: str
    videos: int
    top1: float
    c: float


def run(options: ProbeOptions) -> None:
    """Run `p3d probe`: measure, print, and write the files that `--out` asks for.

    Raises:
        UserError: The features do not belong together, or the folds do not fit them.
    """
    check_installed()
    if options.c is not None and options.c <= 0:
        raise UserError(f"--c {options.c}: give a number above 0")
    found = _read(options)
    folds = _folds(options, found.index)
    labels = np.array(found.index.labels, np.int64)
    check_classes(folds, labels, found.index.class_names)
    classifier = LinearClassifier(options.classifier, options.c)
    with nullcontext() if options.out is None else results_folder(options.out):
        results, logits = _measure(found, labels, folds, classifier)
    scores = _pool(options, found.index, folds, logits)
    _print(options, found.index, results, scores, folds)
    if classifier.unconverged:
        listed = ", ".join(f"{c:g}" for c in sorted(classifier.unconverged))
        print(f"note: the solver stopped before it converged with C = {listed}")
    if options.out is not None:
        _write(options.out, results, scores)


def _read(options: ProbeOptions) -> FeatureSet:
    """Return the features of all files together, averaged over clips and normalized.

    Raises:
        UserError: A file cannot be read, or two do not belong together.
    """
    sets = [read_features(path) for path in options.features]
    if not sets:
        raise UserError("p3d probe needs files of features; p3d features writes them")
    first = sets[0].index
    for path, other in zip(options.features, sets, strict=True):
        if difference := other.index.difference(first):
            raise UserError(
                f"{path}: its features do not belong with those of {options.features[0]} "
                f"({difference}); give features of one kind"
            )
    columns: dict[str, Any] = {
        name: tuple(value for each in sets for value in getattr(each.index, name))
        for name in ("labels", "paths", "groups", "splits", "seen", "bad")
    }
    if pattern := options.group_pattern:
        columns["groups"] = capture_groups(columns["paths"], pattern)
    index = replace(first, **columns)
    if len(set(index.paths)) < len(index.paths):
        twice = next(path for path in index.paths if index.paths.count(path) > 1)
        raise UserError(f"{twice}: has features in two files; give each video once")
    values = [each.values.mean(1) if first.protocol["per_clip"] else each.values for each in sets]
    return FeatureSet(np.concatenate([normalize(each) for each in values]), index)


def _folds(options: ProbeOptions, index: FeatureIndex) -> list[Fold]:
    if options.ucf101 is not None:
        if options.folds != "split":
            raise UserError("give --ucf101 or --folds, not both")
        return folds_of_ucf101(index.paths, options.ucf101)
    if options.folds == "split":
        return folds_by_split(index.splits)
    return folds_by_group(index.groups, None if options.folds == "groups" else options.folds)


def _measure(
    found: FeatureSet,
    labels: NDArray[np.int64],
    folds: Sequence[Fold],
    classifier: LinearClassifier,
) -> tuple[list[FoldResult], list[NDArray[np.float32]]]:
    """Train and measure on each fold; return the results, and the logits of the test videos."""
    results, logits, groups = [], [], found.index.groups
    with ProgressBar(len(folds), "probing", "fold", leave=False) as bar:
        for name, train, test in folds:
            scores, c = classifier.logits(
                found.values[train],
                labels[train],
                [groups[row] for row in train.tolist()],
                found.values[test],
                len(found.index.class_names),
            )
            top1 = float((scores.argmax(1) == labels[test]).mean())
            results.append(FoldResult(name, len(test), top1, c))
            logits.append(scores)
            bar.advance()
    return results, logits


def _pool(
    options: ProbeOptions,
    index: FeatureIndex,
    folds: Sequence[Fold],
    logits: Sequence[NDArray[np.float32]],
) -> ScoreFile:
    """Return the scores of all held-out videos, in the order of the features."""
    rows = np.concatenate([fold.test for fold in folds])
    order = rows.argsort(kind="stable")
    listed = rows[order].tolist()
    protocol = {
        "split": "held out",
        "folds": "ucf101" if options.ucf101 else options.folds,
        "classifier": options.classifier,
        "features": index.protocol,
    }
    return ScoreFile(
        np.concatenate(logits)[order][:, None],
        np.array([index.labels[row] for row in listed], np.int64),
        index.class_names,
        tuple(index.paths[row] for row in listed),
        tuple(index.groups[row] for row in listed),
        protocol,
        index.weights_sha256,
    )


def _print(
    options: ProbeOptions,
    index: FeatureIndex,
    results: Sequence[FoldResult],
    scores: ScoreFile,
    folds: Sequence[Fold],
) -> None:
    kind = "linear SVM" if options.classifier == "svm" else "logistic regression"
    print(f"{kind} on {index.protocol['layer']} of {counted(len(index.paths), 'video')}")
    rows = [(r.name, r.videos, format_percent(r.top1), f"{r.c:g}") for r in results]
    print(format_table(("fold", "videos", "top-1", "C"), rows))
    seen = sum(index.seen[row] for fold in folds for row in fold.test.tolist())
    print(describe_held_out(scores, [result.top1 for result in results], seen))


def _write(folder: Path, results: Sequence[FoldResult], scores: ScoreFile) -> None:
    rows = [(r.name, r.videos, f"{r.top1:.5f}", f"{r.c:g}") for r in results]
    write_held_out(folder, scores, ("fold", "videos", "top1", "c"), rows)
