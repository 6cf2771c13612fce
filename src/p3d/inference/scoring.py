"""Scores of whole videos: each once, several clips a video, mean of their probabilities."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import torch
from torch import Tensor
from tqdm import tqdm

from p3d.data.dataset import VideoDataset
from p3d.data.loader import BadVideoPolicy, Batch, test_loader
from p3d.errors import UserError
from p3d.inference.scorer import Scorer
from p3d.system.device import wants_pinned_memory
from p3d.system.distributed import ALONE, Group
from p3d.system.files import write_csv
from p3d.system.signals import Stopped, StopRequest


@dataclass(frozen=True)
class VideoScores:
    """Scores of the videos of a data set, in the order of its records.

    Attributes:
        scores: float32 `(V, num_classes)`, mean probabilities.
        labels: int64 `(V,)`.
        indices: int64 `(V,)`, positions in the data set's records.
        bad: One line for each video that could not be read.
    """

    scores: Tensor
    labels: Tensor
    indices: Tensor
    bad: tuple[str, ...]


def score_videos(
    scorer: Scorer,
    dataset: VideoDataset,
    *,
    clips: int,
    workers: int = 0,
    on_bad_video: BadVideoPolicy = "error",
    label: str = "evaluating",
    group: Group = ALONE,
    stop: StopRequest | None = None,
) -> VideoScores:
    """Score every video of a data set once, each process its share.

    Args:
        scorer: The network.
        dataset: What to score.
        clips: Clips a video, at even distances; their probabilities are averaged.
        workers: Processes that decode; 0 decodes in this one.
        on_bad_video: Raise at a video that cannot be read, or leave it out.
        label: What the progress bar says.
        group: The processes that score together; all of them get all scores.
        stop: Whether somebody wants the work to stop.

    Raises:
        BadVideoError: A video cannot be read and the policy is "error".
        UserError: No video could be read.
        Stopped: A stop was asked for.
    """
    loader = test_loader(
        dataset,
        scorer.preprocessing,
        clips=clips,
        batch_size=max(1, scorer.batch_size // clips),
        workers=workers,
        on_bad_video=on_bad_video,
        rank=group.rank,
        world_size=group.world_size,
        pin_memory=wants_pinned_memory(scorer.device),
    )
    videos = len(dataset.records)
    share = len(range(group.rank, videos, group.world_size))
    parts = [_no_scores(scorer)]
    with tqdm(
        total=share,
        desc=label,
        unit="video",
        disable=None if group.is_main else True,
        leave=False,
    ) as bar:
        for batch in loader:
            if stop is not None and stop.is_set:
                break
            parts.append(_score_batch(scorer, batch, clips))
            bar.update(len(batch.labels) + len(batch.bad))
    if group.any(stop is not None and stop.is_set):
        raise Stopped
    scored = _join(group.gather(_join(parts)))
    if not len(scored.labels):
        raise UserError(f"none of the {videos} videos could be read, for example {scored.bad[0]}")
    return scored


def _no_scores(scorer: Scorer) -> VideoScores:
    nothing = torch.empty(0, dtype=torch.int64)
    return VideoScores(torch.empty(0, scorer.num_classes), nothing, nothing, ())


def _score_batch(scorer: Scorer, batch: Batch, clips: int) -> VideoScores:
    if not len(batch.labels):
        return replace(_no_scores(scorer), bad=batch.bad)
    scores = scorer(batch.clips.flatten(0, 1)).unflatten(0, (-1, clips)).mean(1)
    return VideoScores(scores, batch.labels, batch.indices, batch.bad)


def _join(parts: Sequence[VideoScores]) -> VideoScores:
    """All parts in one, in the order of the data set."""
    indices = torch.cat([part.indices for part in parts])
    order = indices.argsort()
    return VideoScores(
        torch.cat([part.scores for part in parts])[order],
        torch.cat([part.labels for part in parts])[order],
        indices[order],
        tuple(line for part in parts for line in part.bad),
    )


def write_scores(path: Path, dataset: VideoDataset, scored: VideoScores) -> None:
    """Write a line a video: its path, its class, and its score for each class.

    Raises:
        UserError: The file cannot be written.
    """
    write_csv(
        path,
        ("path", "class", *dataset.class_names),
        [
            (
                dataset.records[index].path,
                dataset.class_names[label],
                *(f"{score:.5f}" for score in row),
            )
            for index, label, row in zip(
                scored.indices.tolist(),
                scored.labels.tolist(),
                scored.scores.tolist(),
                strict=True,
            )
        ],
    )
