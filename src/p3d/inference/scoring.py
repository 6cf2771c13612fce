"""Logits of videos, each from several clips."""

from __future__ import annotations

import math
from collections.abc import Generator, Iterable, Sequence
from contextlib import closing
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import NamedTuple

import torch
from torch import Tensor

from p3d.data.clips import EvalClips
from p3d.data.dataset import VideoDataset
from p3d.data.loader import BadVideoPolicy, check_dataset, with_remedy
from p3d.data.views import CENTER, Views
from p3d.data.workers import Videos
from p3d.errors import BadVideoError, OtherFlowError, UserError
from p3d.inference.clip_plan import ClipPlan, NumClips, plan_clips
from p3d.inference.pipe import Scored, num_threads, score_in_order
from p3d.inference.scorer import Scorer, mean_probabilities
from p3d.inference.settled import DEFAULT_SETTLED
from p3d.system.csv_file import write_csv
from p3d.system.distributed import ALONE, Group
from p3d.system.progress import ProgressBar
from p3d.system.signals import Stopped, StopRequest

_Info = tuple[int, int, tuple[int, ...], tuple[float, ...], int]
"""What a `Sample` holds besides its clips."""

_Result = Scored[_Info] | BadVideoError

VERDICT_COLUMNS = ("answer", "result")
"""Columns after the probabilities in a file of `write_scores`."""


@dataclass(frozen=True)
class VideoScores:
    """Logits of the videos of a data set, in the order of its records.

    Attributes:
        logits: float32 `(V, num_clips, num_classes)`. Where the numbers of clips differ,
            `(V, 1, num_classes)`: logits of the mean probabilities of a video's clips.
        labels: int64 `(V,)`; -1 for a video without a label.
        indices: int64 `(V,)`, positions in the data set's records.
        bad: One line for each video that could not be read.
        clips_used: int64 `(V,)`: clips that were scored; empty if unknown.
        starts: int64 `(V, num_clips)`, first frame of each clip, from 0; empty if unknown. Where
            the numbers of clips differ, of all clips to choose from.
        times: float64 `(V, num_clips)`, start of each clip in seconds, NaN if unknown; empty if
            `starts` is.
        lengths: int64 `(V,)`, steps that the clips were chosen from, see `p3d.data.track.Track`;
            empty if unknown.
    """

    logits: Tensor
    labels: Tensor
    indices: Tensor
    bad: tuple[str, ...]
    clips_used: Tensor = field(default_factory=lambda: torch.empty(0, dtype=torch.int64))
    starts: Tensor = field(default_factory=lambda: torch.empty(0, dtype=torch.int64))
    times: Tensor = field(default_factory=lambda: torch.empty(0, dtype=torch.float64))
    lengths: Tensor = field(default_factory=lambda: torch.empty(0, dtype=torch.int64))

    @property
    def probabilities(self) -> Tensor:
        """float32 `(V, num_classes)`: the mean over a video's clips; NaN if not finite."""
        return mean_probabilities(self.logits)


def score_videos(
    scorer: Scorer,
    dataset: VideoDataset,
    *,
    num_clips: NumClips,
    views: Views = CENTER,
    settled: float = DEFAULT_SETTLED,
    workers: int | None = None,
    on_bad_video: BadVideoPolicy = "error",
    description: str = "evaluating",
    group: Group = ALONE,
    stop: StopRequest | None = None,
) -> VideoScores:
    """Score every video of a data set once; each rank scores its shard.

    Rank r scores the videos r, r + world size, and so on. Threads decode meanwhile, see
    `p3d.inference.pipe`. All batches have the same size, so that the logits of a clip do not depend
    on the number of ranks, to the last bit.

    Args:
        scorer: The network.
        dataset: The videos; labels are not needed.
        num_clips: Windows of each video, or "auto".
        views: Where the windows are, and the clips of each; by default one, the center crop.
        settled: Threshold of "auto", see `p3d.inference.settled`.
        workers: Threads that decode; 0 decodes in this one, None takes what suits the machine.
        on_bad_video: Raise if a video cannot be read, or skip it.
        description: Text of the progress bar.
        group: The ranks that score together; each returns all scores.
        stop: Checked after every video.

    Raises:
        BadVideoError: A video cannot be read and the policy is "error".
        OtherFlowError: The optical flow of a video was computed in another way.
        UserError: No video could be read, a number is out of range, or the videos are RGB and the
            network takes optical flow, or vice versa.
        Stopped: A stop was requested.
    """
    plan = plan_clips(num_clips, settled, scorer.batch_size)
    threads = num_threads(workers, scorer.device)
    check_dataset(dataset, scorer.preprocessing)
    shard = range(len(dataset.records))[group.rank :: group.world_size]
    results = _results(scorer, dataset, shard, plan, views, threads)
    bar = ProgressBar(len(shard), description, leave=False, shown=group.is_main)
    with closing(results), bar:
        rows, bad = _collect(shard, results, on_bad_video, bar, stop)
    if group.any(stop is not None and stop.is_set):
        raise Stopped
    rows_each = 1 if num_clips == "auto" else num_clips * views.per_window
    return _gather(group, _stack(rows, (rows_each, scorer.num_classes)), bad)


def _results(
    scorer: Scorer,
    dataset: VideoDataset,
    shard: Sequence[int],
    plan: ClipPlan,
    views: Views,
    threads: int,
) -> Generator[_Result]:
    """Yield the scores of each video of a shard, or why it cannot be read."""
    clips = EvalClips(Videos(dataset), scorer.preprocessing, plan.num_clips, views)
    filled = _Filled(scorer, len(dataset.records) * plan.num_clips * views.per_window)
    return score_in_order(filled, shard, partial(_read, clips), plan, threads)


def _collect(
    shard: Sequence[int],
    results: Iterable[_Result],
    on_bad_video: BadVideoPolicy,
    bar: ProgressBar,
    stop: StopRequest | None,
) -> tuple[list[_Row], list[_Bad]]:
    """Return the scores of a shard's videos, and the unreadable ones; fewer if stopped."""
    rows, bad = list[_Row](), list[_Bad]()
    for video, result in zip(shard, results, strict=True):
        if isinstance(result, BadVideoError):
            if on_bad_video == "error" or isinstance(result, OtherFlowError):
                raise with_remedy(result)
            bad.append(_Bad(video, str(result)))
        else:
            rows.append(_Row(*result.info, result.logits))
        bar.advance()
        if stop is not None and stop.is_set:
            break
    return rows, bad


def _gather(group: Group, scored: VideoScores, bad: Sequence[_Bad]) -> VideoScores:
    """Return the scores of all ranks, or raise `UserError` if there are none."""
    every = _concatenate(group.gather(scored), group.gather(bad))
    if not len(every.labels):
        raise UserError(
            f"none of the {len(every.bad)} videos could be read, for example {every.bad[0]}"
        )
    return every


class _Filled:
    """A scorer whose batches all have the same size: a smaller one is filled with its last clip.

    The kernels round differently for other sizes, but not for other clips beside a clip.
    """

    def __init__(self, scorer: Scorer, num_clips: int) -> None:
        self.device = scorer.device
        self.batch_size = max(1, min(scorer.batch_size, num_clips))
        self._scorer = scorer

    def __call__(self, clips: Tensor) -> Tensor:
        """Return the logits of clips, at most a batch."""
        count = len(clips)
        if missing := self.batch_size - count:
            clips = torch.cat([clips, clips[-1:].expand(missing, *clips.shape[1:])])
        return self._scorer(clips)[:count]


class _Bad(NamedTuple):
    """A video that could not be read, and why."""

    video: int
    line: str


class _Row(NamedTuple):
    """The scores of a video, see `Sample`, and the logits of its clips."""

    label: int
    video: int
    starts: tuple[int, ...]
    times: tuple[float, ...]
    length: int
    logits: Tensor


def _read(clips: EvalClips, index: int, numbers: Sequence[int]) -> tuple[Tensor, _Info]:
    sample = clips.read(index, numbers)
    return sample.clips, sample[1:]


def _stack(rows: Sequence[_Row], shape: tuple[int, int]) -> VideoScores:
    """Return the scores of videos, each with logits of a shape.

    Where numbers of clips differ, a video's logits become those of a single clip that has the mean
    probabilities of them all.
    """
    logits = torch.empty(len(rows), *shape)
    for values, row in zip(logits, rows, strict=True):
        is_whole = len(row.logits) == len(values)
        values[:] = row.logits if is_whole else log_mean_probabilities(row.logits)
    return VideoScores(
        logits,
        torch.tensor([row.label for row in rows], dtype=torch.int64),
        torch.tensor([row.video for row in rows], dtype=torch.int64),
        (),
        torch.tensor([len(row.logits) for row in rows], dtype=torch.int64),
        torch.tensor([row.starts for row in rows], dtype=torch.int64),
        torch.tensor([row.times for row in rows], dtype=torch.float64),
        torch.tensor([row.length for row in rows], dtype=torch.int64),
    )


def log_mean_probabilities(logits: Tensor) -> Tensor:
    """Return logits whose softmax is the mean of the clips' softmax scores.

    Args:
        logits: float `(..., num_clips, num_classes)`.

    Returns:
        float `(..., num_classes)`.
    """
    return logits.log_softmax(-1).logsumexp(-2) - math.log(logits.shape[-2])


def _concatenate(parts: Sequence[VideoScores], bad: Sequence[Sequence[_Bad]]) -> VideoScores:
    """Return all parts, and the lines of bad videos, in the order of the data set."""
    indices = torch.cat([part.indices for part in parts])
    order = indices.argsort()
    return VideoScores(
        torch.cat([part.logits for part in parts])[order],
        torch.cat([part.labels for part in parts])[order],
        indices[order],
        tuple(line for _, line in sorted(each for part in bad for each in part)),
        torch.cat([part.clips_used for part in parts])[order],
        torch.cat([part.starts for part in parts])[order],
        torch.cat([part.times for part in parts])[order],
        torch.cat([part.lengths for part in parts])[order],
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
                dataset.records[index].name,
                names[label] if label >= 0 else "",
                *(f"{probability:.5f}" for probability in values),
                "" if answer is None else names[answer],
                "" if label < 0 else "right" if label == answer else "wrong",
            )
            for index, label, values, answer in rows
        ],
    )
