"""`p3d eval`: every video of a split once, the mean of several clips' softmax scores.

By default 20 uniformly spaced clips, in the sizes of the weights' preprocessing (resized to 182x242
and center-cropped to 160, as in Qiu et al. 2017, sec. 4). `p3d.evaluation.protocols` has others.
"""

from __future__ import annotations

import time
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import NamedTuple

import torch

from p3d.data.dataset import Split, VideoDataset
from p3d.data.layouts import DataOptions, read_dataset
from p3d.data.loader import BadVideoPolicy
from p3d.data.views import Crops, FrameOrder, Views
from p3d.errors import UserError, printable
from p3d.evaluation.leaks import find_overlap
from p3d.evaluation.motion import (
    Frames,
    OrderResult,
    compare_orders,
    motion_table,
    orders_of,
    write_motion,
)
from p3d.evaluation.output import Result, renew_report, summarize, write_result
from p3d.evaluation.protocols import NUM_CLIPS, Name, Protocol, choose_protocol
from p3d.evaluation.run_options import data_of_runs
from p3d.evaluation.spread import spread_table, write_spread
from p3d.inference.backends.names import BackendChoice
from p3d.inference.exported import ExportedNetwork
from p3d.inference.networks import chosen_backend, load_network, make_scorer
from p3d.inference.scorer import Scorer
from p3d.inference.scoring import VideoScores, score_videos
from p3d.model.network import P3D
from p3d.run_folder import BEST_FILE
from p3d.scores.accuracy import measure
from p3d.system.device import describe_device, resolve_device, set_up_cpu
from p3d.system.distributed import Group, join, read_launch
from p3d.system.files import file_sha256, make_folder
from p3d.system.markers import First
from p3d.system.options import DeviceOptions, plain_options
from p3d.system.text import counted
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
    clips: First[int] = NUM_CLIPS
    """Clips of each video, uniformly spaced."""
    run: First[tuple[Path, ...]] = ()
    """Folder of a training run: take data, split rule and weights from it, write the results to its
    folder RUN/SPLIT, and renew its report. Several runs, such as those of UCF101's three official
    splits, are measured one after the other, and their mean and spread printed."""
    out: First[Path | None] = None
    """Folder for metrics.json, scores.csv, scores.npz, per_class.csv, confusion.csv and
    confusion.png. With several runs, a folder for each in it."""
    protocol: First[Name] = "weights"
    """Sizes of the frames and places of the clips.
    weights: sizes of the weights, --clips uniformly spaced.
    paper: 20 clips of 16 frames, uniformly spaced, resized to 182x242, crop 160.
    authors-features: as the authors extract features: 20 clips of 16 frames, spaced by (frames -
    18) / 20, short side 162, crop 160."""
    frames: First[Frames] = "ordered"
    """Order of the frames in each clip. With all, a table shows whether the network uses the order:
    reversed, shuffled, or still (the middle frame, repeated)."""
    crops: Crops = 1
    """Crops of each clip whose scores are averaged.
    1: the center.
    3: the center and both ends of the longer side.
    10: the center, the corners, and the mirrored copies of these."""
    mirror: bool = False
    """Average each crop with its mirrored copy. Not for classes that differ in left and right."""
    seed: int = 0
    """Seed of --frames shuffled."""
    batch_size: First[int | None] = None
    """Clips on the device at once; by default what suits it: 1 on a CPU."""
    backend: BackendChoice = "auto"
    """What computes the network; auto takes an exported file's, or compiles if that saves time."""
    workers: int = 2
    """Worker processes that decode; 0 decodes in the main process."""
    compute: DeviceOptions = field(default_factory=DeviceOptions)
    on_bad_video: BadVideoPolicy = "error"
    """What to do with a video that cannot be read: stop, or skip it and report it."""


class _Job(NamedTuple):
    """The evaluation of a network; `title` names it among several."""

    title: str
    options: EvalOptions
    dataset: VideoDataset
    model: P3D | ExportedNetwork
    protocol: Protocol


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
    set_up_cpu(options.compute.threads)
    device = resolve_device(options.compute.device, launch.local_rank)
    with join(device, launch) as group:
        # All are read first, so that a mistake in the last one is found at once.
        jobs = [_read(title, each) for title, each in _separate(options).items()]
        if len({job.dataset.class_names for job in jobs}) > 1:
            raise UserError(
                f"--run: {jobs[0].title} and the other runs have different classes, so that their "
                "mean says nothing; evaluate them one by one"
            )
        results = {job.title: _evaluate(job, device, group) for job in jobs}
        if len(jobs) > 1 and group.is_main:
            accuracies = {title: result.accuracy for title, result in results.items()}
            print(spread_table(accuracies, len(jobs[0].dataset.class_names)))
            if options.out is not None:
                write_spread(options.out / "runs.csv", accuracies)


def _separate(options: EvalOptions) -> dict[str, EvalOptions]:
    """Return the options of each run, by a name for it.

    Raises:
        UserError: Several runs do not fit together, or one of them cannot be read.
    """
    if len(options.run) < 2:
        return {"": options}
    names = [folder.resolve().name for folder in options.run]
    for name in names:
        if names.count(name) > 1:
            raise UserError(f"--run: two folders are called {name}; give each run once, and rename")
    if options.weights != options.run[0] / BEST_FILE:
        raise UserError(
            f"--weights {options.weights}: each of several runs has its own weights; drop --weights"
        )
    return {
        name: replace(
            options,
            data=data,
            weights=folder / BEST_FILE,
            run=(folder,),
            out=None if options.out is None else options.out / name,
        )
        for name, folder, data in zip(
            names, options.run, data_of_runs(options.run, options.data), strict=True
        )
    }


def _read(title: str, options: EvalOptions) -> _Job:
    """Read data set and network.

    Raises:
        UserError: One of them is not there, or they do not fit together.
    """
    run = options.run[0] if options.run else None
    if run is not None and not options.data.data.exists():
        raise UserError(
            f"--run {run}: the data {options.data.data} is not there; give --data with the "
            "place where it is now"
        )
    dataset = read_dataset(options.data, options.split)
    if not dataset.records:
        raise UserError(
            f"--split {options.split}: {options.data.data} has no {options.split} videos; give "
            f"another --split, or divide some off with --{options.split}-fraction"
        )
    if run is not None and options.weights == run / BEST_FILE and not options.weights.exists():
        raise UserError(
            f"--run {run}: has no {BEST_FILE} yet, which is written after an epoch; "
            "wait for it, or give --weights"
        )
    backend = chosen_backend(options.backend, compiled=options.compute.compile)
    model = load_network(options.weights, backend)
    check_classes(model, dataset.class_names, options.weights)
    order = orders_of(options.frames)[-1]
    views = Views(crops=options.crops, mirror=options.mirror, order=order, seed=options.seed)
    protocol = choose_protocol(options.protocol, options.clips, views, model.preprocessing)
    model.preprocessing = protocol.prep
    return _Job(title, options, dataset, model, protocol)


def _evaluate(job: _Job, device: torch.device, group: Group) -> Result:
    """Measure a network with each order of frames; print and write the results."""
    options = job.options
    folder = _folder(options)
    if folder is not None and group.is_main:
        make_folder(folder)
    compute = options.compute
    orders = orders_of(options.frames)
    clips = job.protocol.clips * job.protocol.views.per_window * len(orders)
    scorer = make_scorer(
        job.model,
        device,
        compute.precision,
        backend=chosen_backend(options.backend, compiled=compute.compile),
        batch_size=options.batch_size,
        clips=clips * len(job.dataset.records) // group.world_size,
        say=group.is_main,
    )
    results = [_measure(job, scorer, order, group) for order in orders]
    if group.is_main:
        count = f"{group.world_size} x " if group.world_size > 1 else ""
        shown = f"{counted(options.clips, 'clip')} a video"
        print(printable(f"{options.weights} on the {options.split} list of {options.data.data}"))
        print(f"{count}{describe_device(device)}, {scorer.precision}, {shown}")
        print(summarize(results[0]))
        compared = compare_orders({r.protocol.views.order: r.scored for r in results})
        if len(results) > 1:
            print(motion_table(compared))
        if folder is not None:
            _write(folder, options, results, compared)
    return results[0]


def _write(
    folder: Path, options: EvalOptions, results: list[Result], compared: list[OrderResult]
) -> None:
    """Write the files of an evaluation, and renew the report of the run that it belongs to."""
    values, digest = plain_options(options), file_sha256(find_weights(options.weights))
    folders = [_subfolder(folder, options, result) for result in results]
    for place, result in zip(folders, results, strict=True):
        write_result(place, result, values, digest)
    if len(results) > 1:
        write_motion(folder / "motion.csv", compared)
    names = ", ".join(sorted(path.name for path in folders[0].iterdir() if path.is_file()))
    print(printable(f"written to {folders[0]}: {names}"))
    if len(folders) > 1:
        others = ", ".join(place.name for place in folders[1:])
        print(f"and the same for the other orders, in its folders {others}")
    if options.run:
        renew_report(options.run[0])


def _measure(job: _Job, scorer: Scorer, order: FrameOrder, group: Group) -> Result:
    protocol = replace(job.protocol, views=replace(job.protocol.views, order=order))
    start = time.perf_counter()
    scored: VideoScores = score_videos(
        scorer,
        job.dataset,
        num_clips=protocol.clips,
        views=protocol.views,
        workers=job.options.workers,
        on_bad_video=job.options.on_bad_video,
        description="evaluating" if order == "ordered" else f"frames {order}",
        group=group,
    )
    return Result(
        job.dataset,
        protocol,
        job.options.split,
        scorer.precision,
        scored,
        measure(scored.probabilities, scored.labels),
        find_overlap(job.model, job.dataset, scored.indices.tolist()),
        time.perf_counter() - start,
    )


def _folder(options: EvalOptions) -> Path | None:
    """Return the folder for the results, or None if they are only printed."""
    if options.out is None and options.run:
        return options.run[0] / options.split
    return options.out


def _subfolder(folder: Path, options: EvalOptions, result: Result) -> Path:
    """Return the folder for the results of an order.

    Figures of frames that are not in order never take the place of a run's own.
    """
    order = result.protocol.views.order
    if order == "ordered" or (options.frames == order and options.out is not None):
        return folder
    return folder / order
