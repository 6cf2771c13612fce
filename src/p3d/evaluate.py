"""Evaluation by the official protocol: every video once, several clips a video, mean of scores.

By default 20 clips at even distances, resized to 182x242, centre crop of 160, mean of their softmax
scores (Qiu et al. 2017, sec. 4); the sizes are those of the weights' preprocessing.
"""

from __future__ import annotations

import time
from collections.abc import Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path

import torch
from torch import Tensor
from tqdm import tqdm

from p3d.data.loader import BadVideoPolicy, Batch, test_loader
from p3d.data.manifest import DataOptions, Split, VideoDataset, read_dataset
from p3d.distributed import ALONE, Group, join
from p3d.errors import UserError
from p3d.inference import Scorer
from p3d.interrupt import Stopped, StopRequest
from p3d.metrics import Accuracy, measure
from p3d.model import P3D
from p3d.report import (
    format_share,
    format_table,
    make_folder,
    write_accuracy,
    write_csv,
    write_json,
)
from p3d.runtime import (
    DeviceName,
    Precision,
    describe_device,
    read_launch,
    resolve_device,
)
from p3d.weights import load_model


@dataclass(frozen=True)
class EvalOptions:
    """Measure a network on a split of a data set: every video once, mean of its clips' scores."""

    data: DataOptions
    weights: Path
    """Weight file, of any format that p3d reads."""
    split: Split = "test"
    """Which list to measure on."""
    clips: int = 20
    """Clips a video, at even distances."""
    out: Path | None = None
    """Folder for metrics.json, scores.csv, per_class.csv, confusion.csv and confusion.png."""
    batch_size: int = 16
    """Clips on the device at once."""
    workers: int = 2
    """Processes that decode; 0 decodes in this one."""
    device: DeviceName = "auto"
    """Where to compute."""
    precision: Precision = "fp32"
    """Arithmetic: fp32 (IEEE, no TF32), tf32, bf16 or fp16."""
    compile: bool = False
    """Compile the network first."""
    on_bad_video: BadVideoPolicy = "error"
    """A video that cannot be read ends the evaluation, or is left out and counted."""


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
    scored = _join([part for parts_of_one in group.gather(parts) for part in parts_of_one])
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


def check_classes(model: P3D, class_names: Sequence[str], weights: Path) -> None:
    """Refuse to measure a network on other classes than it was trained for.

    Raises:
        UserError: The number of classes differs, or their names or order do.
    """
    if model.config.num_classes != len(class_names):
        raise UserError(
            f"{weights} tells {model.config.num_classes} classes apart, the data set has "
            f"{len(class_names)}; evaluate on the data it was trained for, or fine-tune it first"
        )
    for ours, theirs in zip(model.class_names or class_names, class_names, strict=True):
        if ours.casefold() != theirs.casefold():
            raise UserError(
                f"{weights} has the class {ours!r} where the data set has {theirs!r}; "
                "their class lists differ in names or order"
            )


def run(options: EvalOptions) -> None:
    """Carry out `p3d eval`: measure, print, and write what `--out` asks for.

    Raises:
        UserError: The options, the data or the weights do not fit.
        BadVideoError: A video cannot be read and `--on-bad-video` is "error".
    """
    if min(options.clips, options.batch_size) < 1:
        raise UserError("--clips and --batch-size must be 1 or more")
    launch = read_launch()
    device = resolve_device(options.device, launch.local_rank)
    with join(device, launch) as group:
        _evaluate(options, device, group)


def _evaluate(options: EvalOptions, device: torch.device, group: Group) -> None:
    dataset = read_dataset(options.data, options.split)
    model = load_model(options.weights)
    check_classes(model, dataset.class_names, options.weights)
    if options.out is not None and group.is_main:
        make_folder(options.out)
    scorer = Scorer(
        model,
        device,
        options.precision,
        compiled=options.compile,
        batch_size=options.batch_size,
    )
    started = time.perf_counter()
    scored = score_videos(
        scorer,
        dataset,
        clips=options.clips,
        workers=options.workers,
        on_bad_video=options.on_bad_video,
        group=group,
    )
    if not group.is_main:
        return
    accuracy = measure(scored.scores, scored.labels)
    seconds = time.perf_counter() - started
    where = f"{group.world_size} x " if group.world_size > 1 else ""
    print(f"{options.weights} on the {options.split} list of {options.data.data}")
    print(f"{where}{describe_device(device)}, {options.precision}, {options.clips} clips a video")
    print(_summary(accuracy, scored, dataset, seconds))
    if options.out is not None:
        _write(options, options.out, dataset, scored, accuracy)


def _summary(accuracy: Accuracy, scored: VideoScores, dataset: VideoDataset, seconds: float) -> str:
    lines = [
        format_table(
            ("videos", "top-1", "top-5", "mean class", "loss", "seconds"),
            [
                (
                    accuracy.videos,
                    format_share(accuracy.top1),
                    format_share(accuracy.top5),
                    format_share(accuracy.mean_class),
                    f"{accuracy.loss:.4f}",
                    f"{seconds:.1f}",
                )
            ],
        )
    ]
    if dataset.missing:
        lines.append(f"NOT MEASURED: {dataset.missing} listed videos that are not there")
    if scored.bad:
        lines.append(f"NOT MEASURED: {len(scored.bad)} videos that cannot be read:")
        lines += [f"  {line}" for line in scored.bad]
    return "\n".join(lines)


def _write(
    options: EvalOptions,
    folder: Path,
    dataset: VideoDataset,
    scored: VideoScores,
    accuracy: Accuracy,
) -> None:
    metrics = {
        "videos": accuracy.videos,
        "top1": accuracy.top1,
        "top5": accuracy.top5,
        "mean_class": accuracy.mean_class,
        "loss": accuracy.loss,
        "missing": dataset.missing,
        "bad": list(scored.bad),
        "options": asdict(options),
    }
    write_json(folder / "metrics.json", metrics)
    write_accuracy(folder, accuracy, dataset.class_names)
    write_scores(folder / "scores.csv", dataset, scored)
    print(f"written to {folder}: {', '.join(sorted(path.name for path in folder.iterdir()))}")


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
