"""`p3d eval` by the official protocol: every video once, the mean of several clips' scores.

The default is 20 uniformly spaced clips, resized to 182x242 and center-cropped to 160, and the mean
of their softmax scores (Qiu et al. 2017, sec. 4). The sizes come from the weights' preprocessing.
"""

from __future__ import annotations

import time
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import torch

from p3d.data.dataset import Split, VideoDataset
from p3d.data.layouts import DataOptions, read_dataset
from p3d.data.loader import BadVideoPolicy
from p3d.errors import UserError, printable
from p3d.evaluation.clips_curve import check_curve, report_clips
from p3d.evaluation.leaks import Overlap, find_overlap
from p3d.inference.backends.names import BackendChoice
from p3d.inference.clip_plan import NumClips, expected_clips, settled_threshold
from p3d.inference.exported import ExportedNetwork
from p3d.inference.networks import chosen_backend, load_network, make_scorer
from p3d.inference.scoring import VideoScores, score_videos, write_scores
from p3d.model.network import P3D
from p3d.preprocessing import Preprocessing
from p3d.report.page import write_run_report
from p3d.run_folder import BEST_FILE, LOGITS_FILE, METRICS_FILE, SCORES_FILE
from p3d.scores.accuracy import Accuracy, measure, shows_top5
from p3d.scores.output import write_accuracy
from p3d.scores.score_file import collect_scores, write_score_file
from p3d.system.device import describe_device, resolve_device, set_up_cpu
from p3d.system.distributed import Group, join, read_launch
from p3d.system.files import file_sha256, make_folder, write_json
from p3d.system.machine import describe_call
from p3d.system.markers import First
from p3d.system.options import DeviceOptions, plain_options
from p3d.system.text import counted, format_percent, format_table
from p3d.weights.class_names import same_class
from p3d.weights.loading import find_weights


@dataclass(frozen=True)
class EvalOptions:
    """Measure a network on a split of a data set: every video once, mean of its clips' scores."""

    data: DataOptions
    weights: Path
    """Weights in any format that p3d reads, a run's folder, or a file of `p3d export`. A .pt2 is a
    program; use only one that you trust."""
    split: First[Split] = "test"
    """Split to measure on."""
    clips: First[NumClips] = 20
    """Clips of each video, uniformly spaced; auto takes as many of 20 as the answer needs."""
    clips_curve: bool = False
    """Print the accuracy with 1, 2, 5, 10, 20 and auto clips, from the same scores."""
    run: First[Path | None] = None
    """Folder of a training run: take data, split rule and weights from it, write the results to its
    folder RUN/SPLIT, and renew its report."""
    out: First[Path | None] = None
    """Folder for metrics.json, scores.csv, scores.npz, per_class.csv, confusion.csv and
    confusion.png."""
    batch_size: First[int | None] = None
    """Clips on the device at once; by default what suits it: 1 on a CPU."""
    backend: BackendChoice = "auto"
    """What computes the network; auto takes an exported file's, or compiles if that saves time."""
    workers: int | None = None
    """Threads that decode while the network computes; 0 decodes in turn with it. By default what
    suits the machine."""
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
        if not same_class(ours, theirs):
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
    numbers = (options.clips, options.batch_size)
    if any(isinstance(number, int) and number < 1 for number in numbers):
        raise UserError("--clips and --batch-size must be 1 or more")
    if options.clips_curve:
        check_curve(options.clips)
    launch = read_launch()
    set_up_cpu(options.compute.threads)
    device = resolve_device(options.compute.device, launch.local_rank)
    with join(device, launch) as group:
        _evaluate(options, device, group)


def _evaluate(options: EvalOptions, device: torch.device, group: Group) -> None:
    compute = options.compute
    backend = chosen_backend(options.backend, compiled=compute.compile)
    dataset, model = _read(options, backend)
    folder = _folder(options)
    if folder is not None and group.is_main:
        make_folder(folder)
    scorer = make_scorer(
        model,
        device,
        compute.precision,
        backend=backend,
        batch_size=options.batch_size,
        clips=expected_clips(options.clips) * len(dataset.records) // group.world_size,
        say=group.is_main,
    )
    start = time.perf_counter()
    scored = score_videos(
        scorer,
        dataset,
        num_clips=options.clips,
        settled=settled_threshold(model.calibration)[0],
        workers=options.workers,
        on_bad_video=options.on_bad_video,
        group=group,
    )
    if not group.is_main:
        return
    accuracy = measure(scored.probabilities, scored.labels)
    seconds = time.perf_counter() - start
    overlap = find_overlap(model, dataset, scored.indices.tolist())
    count = f"{group.world_size} x " if group.world_size > 1 else ""
    print(printable(f"{options.weights} on the {options.split} list of {options.data.data}"))
    print(f"{count}{describe_device(device)}, {scorer.precision}, {options.clips} clips a video")
    print(_summary(accuracy, scored, dataset, seconds))
    clips = report_clips(scored, options.clips, model.calibration, curve=options.clips_curve)
    print(*clips.lines, sep="\n", end="\n" if clips.lines else "")
    if overlap is not None and (message := overlap.message(options.split)):
        print(printable(message))
    if folder is not None:
        more = clips.record
        _write(options, folder, dataset, scored, accuracy, overlap, model.preprocessing, more)


def _read(
    options: EvalOptions, backend: BackendChoice
) -> tuple[VideoDataset, P3D | ExportedNetwork]:
    """Return the data set and the network.

    Raises:
        UserError: One of them is not there, or they do not fit together.
    """
    if options.run is not None and not options.data.data.exists():
        raise UserError(
            f"--run {options.run}: the data {options.data.data} is not there; give --data with the "
            "place where it is now"
        )
    dataset = read_dataset(options.data, options.split)
    if not dataset.records:
        raise UserError(
            f"--split {options.split}: {options.data.data} has no {options.split} videos; give "
            f"another --split, or divide some off with --{options.split}-fraction"
        )
    if options.run and options.weights == options.run / BEST_FILE and not options.weights.exists():
        raise UserError(
            f"--run {options.run}: has no {BEST_FILE} yet, which is written after an epoch; "
            "wait for it, or give --weights"
        )
    model = load_network(options.weights, backend)
    check_classes(model, dataset.class_names, options.weights)
    return dataset, model


def _folder(options: EvalOptions) -> Path | None:
    """Return the folder for the results, or None if they are only printed."""
    if options.out is None and options.run is not None:
        return options.run / options.split
    return options.out


def _summary(accuracy: Accuracy, scored: VideoScores, dataset: VideoDataset, seconds: float) -> str:
    columns = {
        "videos": str(accuracy.videos),
        "top-1": format_percent(accuracy.top1),
        "top-5": format_percent(accuracy.top5),
        "mean class": format_percent(accuracy.mean_class),
        "loss": f"{accuracy.loss:.4f}",
        "seconds": f"{seconds:.1f}",
    }
    if not shows_top5(len(dataset.class_names)):
        del columns["top-5"]
    lines = [format_table([*columns], [[*columns.values()]])]
    if dataset.missing:
        lines.append(f"NOT MEASURED: {counted(dataset.missing, 'listed video')} not found")
    lines += dataset.remarks()
    if scored.bad:
        lines.append(f"NOT MEASURED: {counted(len(scored.bad), 'video')} that cannot be read:")
        lines += [f"  {printable(line)}" for line in scored.bad]
    return "\n".join(lines)


def _write(
    options: EvalOptions,
    folder: Path,
    dataset: VideoDataset,
    scored: VideoScores,
    accuracy: Accuracy,
    overlap: Overlap | None,
    prep: Preprocessing,
    more: Mapping[str, Any],
) -> None:
    """Write the files of an evaluation, and renew the report of the run that it belongs to."""
    call = describe_call()
    digest = file_sha256(find_weights(options.weights))
    metrics = {
        "videos": accuracy.videos,
        "top1": accuracy.top1,
        "top5": accuracy.top5,
        "mean_class": accuracy.mean_class,
        "loss": accuracy.loss,
        "missing": dataset.missing,
        "bad": list(scored.bad),
        "trained_on": None if overlap is None else len(overlap.names),
        **more,
        "weights_sha256": digest,
        "date": call["date"],
        "command": call["command"],
        "options": plain_options(options),
    }
    write_json(folder / METRICS_FILE, metrics)
    write_accuracy(folder, accuracy, dataset.class_names)
    write_scores(folder / SCORES_FILE, dataset, scored)
    protocol = {
        "split": options.split,
        "clips": options.clips,
        "precision": options.compute.precision,
        "preprocessing": asdict(prep),
    }
    write_score_file(folder / LOGITS_FILE, collect_scores(dataset, scored, protocol, digest))
    names = ", ".join(sorted(path.name for path in folder.iterdir()))
    print(printable(f"written to {folder}: {names}"))
    if options.run is not None:
        _renew_report(options.run)


def _renew_report(run: Path) -> None:
    try:
        page = write_run_report(run)
    except UserError as error:
        print(f"no report: {printable(error)}")
    else:
        if page is not None:
            print(f"renewed {printable(page)}")
