"""Logits of videos, each from several clips."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import torch
from torch import Tensor

from p3d.data.dataset import VideoDataset
from p3d.data.loader import BadVideoPolicy, Batch, EvalLoader
from p3d.data.views import CENTER, Views
from p3d.errors import UserError
from p3d.inference.scorer import Scorer, mean_probabilities
from p3d.system.device import needs_pinned_memory
from p3d.system.distributed import ALONE, Group
from p3d.system.files import write_csv
from p3d.system.progress import ProgressBar
from p3d.system.signals import Stopped, StopRequest

VERDICT_COLUMNS = ("answer", "result")
"""Columns after the probabilities in a file of `write_scores`."""


@dataclass(frozen=True)
class VideoScores:
    """Logits of the videos of a data set, in the order of its records.

    Attributes:
        logits: float32 `(V, num_clips, num_classes)`.
        labels: int64 `(V,)`; -1 for a video without a label.
        indices: int64 `(V,)`, positions in the data set's records.
        bad: One line for each video that could not be read.
    """

    logits: Tensor
    labels: Tensor
    indices: Tensor
    bad: tuple[str, ...]

    @property
    def probabilities(self) -> Tensor:
        """float32 `(V, num_classes)`: the mean over a video's clips; NaN if not finite."""
        return mean_probabilities(self.logits)


def score_videos(
    scorer: Scorer,
    dataset: VideoDataset,
    *,
    num_clips: int,
    views: Views = CENTER,
    workers: int = 0,
    on_bad_video: BadVideoPolicy = "error",
    description: str = "evaluating",
    group: Group = ALONE,
    stop: StopRequest | None = None,
) -> VideoScores:
    """Score every video of a data set once; each rank scores its shard.

    Args:
        scorer: The network.
        dataset: The videos; labels are not needed.
        num_clips: Windows of each video.
        views: Where the windows are, and the clips of each; by default one, the center crop.
        workers: Worker processes that decode; 0 decodes in this process.
        on_bad_video: Raise if a video cannot be read, or skip it.
        description: Text of the progress bar.
        group: The ranks that score together; each returns all scores.
        stop: Checked after every batch.

    Raises:
        BadVideoError: A video cannot be read and the policy is "error".
        UserError: No video could be read.
        Stopped: A stop was requested.
    """
    clips = num_clips * views.per_window
    loader = EvalLoader(
        dataset,
        scorer.preprocessing,
        num_clips=num_clips,
        views=views,
        batch_size=max(1, scorer.batch_size // clips),
        workers=workers,
        on_bad_video=on_bad_video,
        group=group,
        pin_memory=needs_pinned_memory(scorer.device),
    )
    nothing = torch.empty(0, dtype=torch.int64)
    empty = VideoScores(
        torch.empty(0, num_clips * views.per_window, scorer.num_classes), nothing, nothing, ()
    )
    parts = [empty]
    with ProgressBar(loader.num_videos, description, leave=False, shown=group.is_main) as bar:
        for batch in loader:
            if stop is not None and stop.is_set:
                break
            parts.append(_score_batch(scorer, batch, empty))
            bar.advance(len(batch.labels) + len(batch.bad))
    if group.any(stop is not None and stop.is_set):
        raise Stopped
    scored = _concatenate(group.gather(_concatenate(parts)))
    if not len(scored.labels):
        raise UserError(
            f"none of the {len(dataset.records)} videos could be read, for example {scored.bad[0]}"
        )
    return scored


def _score_batch(scorer: Scorer, batch: Batch, empty: VideoScores) -> VideoScores:
    if not len(batch.labels):
        return replace(empty, bad=batch.bad)
    logits = scorer(batch.clips.flatten(0, 1)).unflatten(0, batch.clips.shape[:2])
    return VideoScores(logits, batch.labels, batch.indices, batch.bad)


def _concatenate(parts: Sequence[VideoScores]) -> VideoScores:
    """Return all parts together, in the order of the data set."""
    indices = torch.cat([part.indices for part in parts])
    order = indices.argsort()
    return VideoScores(
        torch.cat([part.logits for part in parts])[order],
        torch.cat([part.labels for part in parts])[order],
        indices[order],
        tuple(line for part in parts for line in part.bad),
    )


def write_scores(path: Path, dataset: VideoDataset, scored: VideoScores) -> None:
    """Write a CSV file with one line a video.

    Its columns are path, class, the probability of each class, the answer (the class with the
    highest probability) and the result ("right" or "wrong"). Class and result of a video without a
    label are empty. A video whose probabilities are not finite has no answer, which is wrong.

    Args:
        path: The file.
        dataset: The videos that were scored.
        scored: Their scores.

    Raises:
        UserError: The file cannot be written.
    """
    names, probabilities = dataset.class_names, scored.probabilities
    finite = probabilities.isfinite().all(1).tolist()
    answers = probabilities.argmax(1).tolist()
    rows = zip(
        scored.indices.tolist(),
        scored.labels.tolist(),
        probabilities.tolist(),
        [answer if known else None for answer, known in zip(answers, finite, strict=True)],
        strict=True,
    )
    write_csv(
        path,
        ("path", "class", *names, *VERDICT_COLUMNS),
        [
            (
                dataset.records[index].path,
                names[label] if label >= 0 else "",
                *(f"{probability:.5f}" for probability in values),
                "" if answer is None else names[answer],
                "" if label < 0 else "right" if label == answer else "wrong",
            )
            for index, label, values, answer in rows
        ],
    )
