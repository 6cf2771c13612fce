"""Evaluation by the official protocol: every video once, the mean of several clips' scores.

The default is 20 uniformly spaced clips, resized to 182x242 and center-cropped to 160, and the mean
of their softmax scores (Qiu et al. 2017, sec. 4). The sizes come from the weights' preprocessing.
"""

from __future__ import annotations

import time
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path

import torch

from p3d.data.dataset import Split, VideoDataset
from p3d.data.layouts import DataOptions, read_dataset
from p3d.data.loader import BadVideoPolicy
from p3d.errors import UserError, printable
from p3d.evaluation.metrics import Accuracy, measure
from p3d.evaluation.output import write_accuracy
from p3d.inference.backends.names import BackendChoice
from p3d.inference.exported import ExportedNetwork
from p3d.inference.networks import chosen_backend, load_network, make_scorer
from p3d.inference.scoring import VideoScores, score_videos, write_scores
from p3d.model.network import P3D
from p3d.system.device import describe_device, resolve_device
from p3d.system.distributed import Group, join, read_launch
from p3d.system.files import make_folder, write_json
from p3d.system.options import DeviceOptions, plain_options
from p3d.system.text import format_percent, format_table


@dataclass(frozen=True)
class EvalOptions:
    """Measure a network on a split of a data set: every video once, mean of its clips' scores."""

    data: DataOptions
    weights: Path
    """Weight file, in any format that p3d reads, or a file of `p3d export`. A .pt2 is compiled
    code, which is run: use only one that you trust like a program."""
    split: Split = "test"
    """Split to measure on."""
    clips: int = 20
    """Clips of each video, uniformly spaced."""
    out: Path | None = None
    """Folder for metrics.json, scores.csv, per_class.csv, confusion.csv and confusion.png."""
    batch_size: int | None = None
    """Clips on the device at once; by default what suits it: 1 on a CPU."""
    backend: BackendChoice = "auto"
    """What computes the network; auto takes an exported file's, or compiles if that saves time."""
    workers: int = 2
    """Worker processes that decode; 0 decodes in the main process."""
    compute: DeviceOptions = field(default_factory=DeviceOptions)
    on_bad_video: BadVideoPolicy = "error"
    """What to do with a video that cannot be read: stop, or skip it and report it."""


def check_classes(model: P3D | ExportedNetwork, class_names: Sequence[str], weights: Path) -> None:
    """Check that a network was trained for the classes of a data set.

    Raises:
        UserError: The number of classes, their names or their order differ.
    """
    if model.config.num_classes != len(class_names):
        raise UserError(
            f"{weights} has {model.config.num_classes} classes, the data set has "
            f"{len(class_names)}; evaluate on the data it was trained for, or fine-tune it first"
        )
    for ours, theirs in zip(model.class_names or class_names, class_names, strict=True):
        if ours.casefold() != theirs.casefold():
            raise UserError(
                f"{weights} has the class {ours!r} where the data set has {theirs!r}; "
                "their class lists differ in names or order"
            )


def run(options: EvalOptions) -> None:
    """Run `p3d eval`: measure, print, and write the files that `--out` asks for.

    Raises:
        UserError: The options, the data or the weights do not fit together.
        BadVideoError: A video cannot be read and `--on-bad-video` is "error".
    """
    if min(options.clips, 1 if options.batch_size is None else options.batch_size) < 1:
        raise UserError("--clips and --batch-size must be 1 or more")
    launch = read_launch()
    device = resolve_device(options.compute.device, launch.local_rank)
    with join(device, launch) as group:
        _evaluate(options, device, group)


def _evaluate(options: EvalOptions, device: torch.device, group: Group) -> None:
    dataset = read_dataset(options.data, options.split)
    backend = chosen_backend(options.backend, compiled=options.compute.compile)
    model = load_network(options.weights, backend)
    check_classes(model, dataset.class_names, options.weights)
    if options.out is not None and group.is_main:
        make_folder(options.out)
    precision = options.compute.precision
    scorer = make_scorer(
        model,
        device,
        precision,
        backend=backend,
        batch_size=options.batch_size,
        clips=options.clips * len(dataset.records) // group.world_size,
        say=group.is_main,
    )
    start = time.perf_counter()
    scored = score_videos(
        scorer,
        dataset,
        num_clips=options.clips,
        workers=options.workers,
        on_bad_video=options.on_bad_video,
        group=group,
    )
    if not group.is_main:
        return
    accuracy = measure(scored.probabilities, scored.labels)
    seconds = time.perf_counter() - start
    count = f"{group.world_size} x " if group.world_size > 1 else ""
    print(printable(f"{options.weights} on the {options.split} list of {options.data.data}"))
    print(f"{count}{describe_device(device)}, {scorer.precision}, {options.clips} clips a video")
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
                    format_percent(accuracy.top1),
                    format_percent(accuracy.top5),
                    format_percent(accuracy.mean_class),
                    f"{accuracy.loss:.4f}",
                    f"{seconds:.1f}",
                )
            ],
        )
    ]
    if dataset.missing:
        lines.append(f"NOT MEASURED: {dataset.missing} listed videos that do not exist")
    if dataset.ignored:
        lines.append(f"IGNORED: {dataset.describe_ignored()}")
    if scored.bad:
        lines.append(f"NOT MEASURED: {len(scored.bad)} videos that cannot be read:")
        lines += [f"  {printable(line)}" for line in scored.bad]
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
        "options": plain_options(options),
    }
    write_json(folder / "metrics.json", metrics)
    write_accuracy(folder, accuracy, dataset.class_names)
    write_scores(folder / "scores.csv", dataset, scored)
    names = ", ".join(sorted(path.name for path in folder.iterdir()))
    print(printable(f"written to {folder}: {names}"))
