"""`p3d eval`: every video of a split once, the mean of several clips' softmax scores.

By default 20 uniformly spaced clips, in the sizes of the weights' preprocessing (resized to 182x242
and center-cropped to 160, as in Qiu et al. 2017, sec. 4). `p3d.evaluation.protocols` has others.
"""

from __future__ import annotations

import time
from contextlib import nullcontext
from dataclasses import replace
from pathlib import Path

import torch

from p3d.data.layouts import check_outside
from p3d.data.views import FrameOrder
from p3d.errors import UserError, printable
from p3d.evaluation.clips_curve import check_curve, report_clips
from p3d.evaluation.jobs import Job, read_job, separate
from p3d.evaluation.leaks import find_overlap
from p3d.evaluation.motion import (
    OrderResult,
    compare_orders,
    motion_table,
    orders_of,
)
from p3d.evaluation.options import EvalOptions
from p3d.evaluation.output import Result, renew_report, summarize, write_result
from p3d.evaluation.spread import spread_table, write_spread
from p3d.inference.clip_plan import expected_clips, settled_threshold
from p3d.inference.networks import chosen_backend, make_scorer
from p3d.inference.scorer import Scorer
from p3d.inference.scoring import score_videos
from p3d.scores.accuracy import measure
from p3d.system.device import describe_device, resolve_device, set_up_cpu
from p3d.system.distributed import Group, join, read_launch
from p3d.system.folders import results_folder
from p3d.system.options import check_least, plain_options


def run(options: EvalOptions) -> None:
    """Run `p3d eval`: measure, print, and write the files that `--out` asks for.

    Raises:
        UserError: The options, the data or the weights do not fit together.
        BadVideoError: A video cannot be read and `--on-bad-video` is "error".
    """
    check_least(1, clips=options.clips, batch_size=options.batch_size)
    if options.clips_curve:
        check_curve(options.clips)
        if options.crops > 1 or options.mirror:
            raise UserError("--clips-curve takes the center crop alone; drop --crops and --mirror")
    launch = read_launch()
    set_up_cpu(options.compute.threads)
    device = resolve_device(options.compute.device, launch.local_rank)
    with join(device, launch) as group:
        # All are read first, so that a mistake in the last one is found at once.
        jobs = [read_job(title, each) for title, each in separate(options).items()]
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


def _evaluate(job: Job, device: torch.device, group: Group) -> Result:
    """Measure a network with each order of frames; print and write the results."""
    folder = _folder(job.options)
    if folder is not None:
        check_outside(job.options.data, folder)
    with nullcontext() if folder is None or not group.is_main else results_folder(folder):
        return _evaluate_into(folder, job, device, group)


def _evaluate_into(folder: Path | None, job: Job, device: torch.device, group: Group) -> Result:
    options = job.options
    compute = options.compute
    orders = orders_of(options.frames)
    clips = expected_clips(options.clips) * job.protocol.views.per_window * len(orders)
    scorer = make_scorer(
        job.model,
        device,
        compute.precision,
        backend=chosen_backend(options.backend, compiled=compute.compile),
        batch_size=options.batch_size,
        clips=clips * len(job.dataset.records) // group.world_size,
        say=group.is_main,
    )
    count = f"{group.world_size} x " if group.world_size > 1 else ""
    used = f"{count}{describe_device(device)}"
    results = [_measure(job, scorer, order, group, used) for order in orders]
    if group.is_main:
        shown = "1 clip" if options.clips == 1 else f"{options.clips} clips"
        print(printable(f"{options.weights} on the {options.split} list of {options.data.data}"))
        print(f"{used}, {scorer.precision}, {shown} a video")
        print(summarize(results[0]))
        groups = [record.group for record in job.dataset.records]
        compared = compare_orders({r.protocol.views.order: r.scored for r in results}, groups)
        if len(results) > 1:
            print(motion_table(compared))
        if folder is not None:
            _write(folder, job, results, compared)
    return results[0]


def _write(folder: Path, job: Job, results: list[Result], compared: list[OrderResult]) -> None:
    """Write the files of an evaluation, and renew the report of the run that it belongs to."""
    options, values = job.options, plain_options(job.options)
    folders = [_subfolder(folder, options, result) for result in results]
    # The folder of the evaluation itself comes last: it is complete if all others are.
    for place, result in reversed([*zip(folders, results, strict=True)]):
        orders = compared if place == folder and len(results) > 1 else ()
        write_result(place, result, values, job.weights_sha256, job.model.calibration, orders)
    names = ", ".join(sorted(path.name for path in folders[0].iterdir() if path.is_file()))
    print(printable(f"written to {folders[0]}: {names}"))
    if len(folders) > 1:
        others = ", ".join(place.name for place in folders[1:])
        print(f"and the same for the other orders, in its folders {others}")
    renew_report(folders[0])
    if options.run and options.run[0] != folders[0]:
        renew_report(options.run[0])


def _measure(job: Job, scorer: Scorer, order: FrameOrder, group: Group, device: str) -> Result:
    protocol = replace(job.protocol, views=replace(job.protocol.views, order=order))
    start = time.perf_counter()
    options, calibration = job.options, job.model.calibration
    scored = score_videos(
        scorer,
        job.dataset,
        num_clips=protocol.clips,
        views=protocol.views,
        settled=settled_threshold(calibration)[0],
        workers=options.workers,
        on_bad_video=options.on_bad_video,
        description="evaluating" if order == "ordered" else f"frames {order}",
        group=group,
    )
    return Result(
        job.dataset,
        protocol,
        options.split,
        scorer.precision,
        scored,
        measure(scored.probabilities, scored.labels),
        report_clips(scored, options.clips, calibration, curve=options.clips_curve),
        find_overlap(job.model, job.dataset, scored.indices.tolist()),
        time.perf_counter() - start,
        device,
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
