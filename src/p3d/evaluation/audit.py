"""`p3d audit`: what looks wrong with the data of an evaluation.

Labels, duplicates, and classes that cannot be told apart, from kept scores and features. Nothing is
changed: the findings are videos for a person to look at.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from p3d.data.dataset import UNLABELED
from p3d.errors import UserError, printable
from p3d.evaluation.audit_classes import inseparable_pairs
from p3d.evaluation.audit_duplicates import Duplicate, Item, near_duplicates, same_content
from p3d.evaluation.audit_labels import audit_labels, checked_classes
from p3d.evaluation.audit_output import NO_FEATURES, Audit, describe_audit, write_audit
from p3d.evaluation.metrics import describe_scores
from p3d.evaluation.output import renew_report
from p3d.inference.feature_file import read_features
from p3d.inference.feature_index import FeatureSet
from p3d.report.evaluations import read_metrics
from p3d.run_folder import LOGITS_FILE
from p3d.scores.alignment import path_keys
from p3d.scores.figures import labeled_scores
from p3d.scores.resampling import Bootstrap
from p3d.scores.score_file import ScoreFile, read_score_file
from p3d.system.folders import make_folder
from p3d.system.markers import First, Positional
from p3d.system.options import check_least
from p3d.system.text import counted


@dataclass(frozen=True)
class AuditOptions:
    """Find labels that look wrong, videos that occur twice, and classes that the network cannot
    tell apart, from held-out scores. Nothing is changed."""

    scores: Positional[Path]
    """Folder with the scores.npz of p3d eval or p3d probe. audit.csv and audit.json are written to
    it, and its report.html is renewed."""
    features: First[Path | None] = None
    """Features of the same data set, from p3d features: look for near-duplicates too, across splits
    and groups. By default only copies of the same content are found."""
    similarity: First[float] = 0.95
    """Smallest cosine similarity of the features of near-duplicates, after the mean of all features
    is subtracted."""
    min_videos: First[int] = 5
    """Classes with fewer videos are not checked."""
    top: int = 10
    """Findings of each kind to print; the files have all."""


def run(options: AuditOptions) -> None:
    """Run `p3d audit`.

    Raises:
        UserError: The scores or features cannot be read or used, or do not belong together.
    """
    if not 0 < options.similarity <= 1:
        raise UserError(f"--similarity is {options.similarity:g}; give a number above 0, up to 1")
    check_least(1, min_videos=options.min_videos, top=options.top)
    folder = options.scores if options.scores.is_dir() else options.scores.parent
    scores = read_score_file(options.scores)
    labeled = labeled_scores(scores, str(options.scores))
    metrics = read_metrics(folder, scores.weights_sha256)
    features = None if options.features is None else _read_features(options.features, scores)
    audit = _audit(options, labeled, _remarks(labeled, metrics))
    make_folder(folder, "folder of scores")
    duplicates, remarks = _duplicates(options, scores, features, str(metrics.get("folder", "")))
    audit = audit.with_duplicates(duplicates, remarks)
    print(printable(f"{options.scores}: {describe_scores(scores)}"))
    print(describe_audit(audit, options.top))
    write_audit(folder, audit, folder / LOGITS_FILE if options.scores.is_dir() else options.scores)
    print(printable(f"written to {folder}: audit.csv, audit.json"))
    renew_report(folder)


def _audit(options: AuditOptions, scores: ScoreFile, remarks: list[str]) -> Audit:
    """Return what the scores alone say."""
    labels, probabilities = scores.labels, scores.probabilities()
    classes = checked_classes(labels, len(scores.class_names), options.min_videos)
    return Audit(
        scores,
        options.min_videos,
        options.similarity,
        audit_labels(probabilities, labels, classes),
        tuple(inseparable_pairs(probabilities, labels, scores.groups, classes, Bootstrap())),
        classes,
        float((probabilities.argmax(1) == scores.labels).mean()),
        remarks=tuple(remarks),
    )


def _remarks(scores: ScoreFile, metrics: Mapping[str, Any]) -> list[str]:
    """Return what is known about videos that the network was trained on."""
    learned = "a network repeats the labels that it was trained on, also the wrong ones"
    if scores.split == "train":
        return [f"NOT HELD OUT: these are scores of training videos; {learned}"]
    if seen := metrics.get("trained_on"):
        return [f"NOT HELD OUT: the network was trained on {counted(seen, 'video')}; {learned}"]
    return []


def _read_features(path: Path, scores: ScoreFile) -> FeatureSet:
    """Read features, and check that they are of the same data set.

    Raises:
        UserError: They cannot be read, or are of other classes or other videos.
    """
    features = read_features(path)
    if features.index.class_names != scores.class_names:
        raise UserError(
            f"{path}: its features are of other classes than the scores; give those of the same "
            "data set"
        )
    ours, theirs = path_keys(scores.paths, features.index.paths)
    if not set(ours) & set(theirs):
        raise UserError(
            f"{path}: has features of none of the {counted(len(ours), 'scored video')} (first: "
            f"{scores.paths[0]}); give those of the same data set"
        )
    return features


def _duplicates(
    options: AuditOptions, scores: ScoreFile, features: FeatureSet | None, base: str
) -> tuple[list[Duplicate], list[str]]:
    """Return videos that occur twice, and what limits the search."""
    if features is None:
        items = _scored_items(scores)
        near, remarks = [], [NO_FEATURES]
    else:
        items = _feature_items(features)
        values = features.values
        if features.index.protocol.get("per_clip"):
            values = values.mean(1)
        flat = values.reshape(len(values), -1).astype(np.float64)
        near, remarks = near_duplicates(flat, items, options.similarity), []
    same, absent = same_content(items, Path(base))
    if absent:
        remarks.append(
            f"same content: {absent:,} of {counted(len(items), 'video')} are not where they were, "
            "and were not compared"
        )
    known = {(pair.first.path, pair.second.path) for pair in same}
    return [*same, *(p for p in near if (p.first.path, p.second.path) not in known)], remarks


def _scored_items(scores: ScoreFile) -> list[Item]:
    names = [scores.class_names[k] if k != UNLABELED else "" for k in scores.labels.tolist()]
    columns = zip(scores.paths, names, scores.groups, strict=True)
    return [Item(path, name, group, scores.split) for path, name, group in columns]


def _feature_items(features: FeatureSet) -> list[Item]:
    index = features.index
    names = [index.class_names[label] for label in index.labels]
    return [*map(Item, index.paths, names, index.groups, index.splits)]
