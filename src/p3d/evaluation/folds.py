"""`p3d folds`: train and measure once for each fold, so that every video is held out once.

Each fold is a run of `p3d train` and an evaluation of `p3d eval` in a folder of its own, with the
held-out groups as test groups. The scores of all held-out videos are kept in one file.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Annotated, Literal, NamedTuple

from p3d.data.layouts import check_outside
from p3d.errors import UserError, printable
from p3d.evaluation import evaluate
from p3d.evaluation.fold_plan import FoldRun, describe_division, plan_folds
from p3d.evaluation.fold_record import FoldRecord, read_record
from p3d.evaluation.held_out import describe_held_out, top1_of, write_held_out
from p3d.evaluation.options import EvalOptions
from p3d.evaluation.protocols import NUM_CLIPS
from p3d.inference.clip_plan import NumClips
from p3d.run_folder import BEST_FILE, CONFIG_FILE, FOLDS_FILE, LOGITS_FILE, METRICS_FILE
from p3d.scores.alignment import Named, pool
from p3d.scores.score_file import read_score_file
from p3d.system.children import Job, run_on_devices
from p3d.system.device import DeviceName, find_device, resolve_device, set_up_cpu
from p3d.system.distributed import ALONE, read_launch
from p3d.system.files import write_json
from p3d.system.folders import lock_folder, make_folder, results_folder
from p3d.system.markers import First, Heading
from p3d.system.options import plain_options
from p3d.system.signals import StopRequest
from p3d.system.text import counted, format_percent, format_table
from p3d.training import train
from p3d.training.budget import fit
from p3d.training.options import TrainOptions, fingerprint
from p3d.training.recipes import QuickRecipe
from p3d.weights.loading import PretrainedWeights

TEST_FOLDER = "test"
"""Folder of a fold's evaluation, in that of its run."""


@dataclass(frozen=True)
class FoldsOptions(TrainOptions):
    """Train a network for each fold of whole groups (--group-pattern), and measure it on the videos
    held out. The same command resumes.
    """

    out: Annotated[First[Path], Heading("run")] = Path("runs/folds")
    """Folder for scores.npz, folds.csv and other tables, and for the runs of the folds."""
    resume: bool = True
    """Go on with the folds in --out; with --no-resume, refuse a folder that has any."""
    plan: bool = False
    """Print the folds and the plan of the first one, and exit."""
    folds: Annotated[First[Literal["groups"] | int], Heading("folds")] = "groups"
    """groups: leave one group out in turn; a number: that many folds of whole groups."""
    clips: NumClips = NUM_CLIPS
    """Clips of each held-out video, uniformly spaced; auto takes as many of 20 as the answer
    needs."""
    devices: First[tuple[str, ...]] = ()
    """Train a fold on each of these at a time, such as cuda:0 cuda:1; by default one after another
    on --device."""


class FoldFigures(NamedTuple):
    """What a fold gave: a row of `folds.csv`, with top-1 accuracy in [0, 1]."""

    fold: str
    training: int
    held_out: int
    top1: float


def run(options: FoldsOptions) -> int:
    """Run `p3d folds` and return the exit code: 0, or 128 + the signal that stopped it.

    Raises:
        UserError: The options, the data or the weights do not fit together, or a fold failed.
    """
    if read_launch().launched:
        raise UserError(
            "p3d folds starts its own processes; start it without torchrun, and give --devices"
        )
    if options.clips != "auto" and options.clips < 1:
        raise UserError(f"--clips is {options.clips}; give 1 or more")
    devices = _find_devices(options.devices)
    videos, runs = plan_folds(options, options.folds)
    check_outside(options.data, options.out)
    now = FoldRecord(
        fingerprint(options, videos)
        | {
            "--folds": json.dumps(options.folds),
            "--clips": json.dumps(options.clips),
            "--patience": json.dumps(options.patience),
            "--validation-clips": json.dumps(options.validation_clips),
            "the division into folds": describe_division(runs),
        },
        [run.folder.name for run in runs],
    )
    earlier = read_record(options.out)
    if options.plan:
        return _print_plan(options, runs)
    if options.weights is not None and (earlier is None or not earlier.has_work(options.out)):
        PretrainedWeights(options.weights)  # a wrong file is reported before anything is written
    with results_folder(options.out), lock_folder(options.out):
        record, runs = _start(options, runs, earlier, now)
        try:
            code = _train(options, runs, devices, record)
        finally:
            _forget_unstarted(options, runs)
        if code == 0:
            _report(options, runs)
        return code


def _forget_unstarted(options: FoldsOptions, runs: Sequence[FoldRun]) -> None:
    """Remove the record of folds none of which was started, such as of a network for flow."""
    if not any(each.folder.exists() for each in runs):
        for name in (FOLDS_FILE, CONFIG_FILE):
            (options.out / name).unlink(missing_ok=True)


def _find_devices(names: Sequence[str]) -> list[tuple[DeviceName, int]]:
    devices = [find_device(name) for name in names]
    if len({kind for kind, _ in devices}) > 1:
        raise UserError(f"--devices {' '.join(names)}: give devices of one kind")
    return devices


def _print_plan(options: FoldsOptions, runs: Sequence[FoldRun]) -> int:
    """Print the folds, and the plan of the first one."""
    rows = [
        (
            each.name,
            len(each.training.records),
            len(each.validation.records),
            each.held_out,
            printable(each.folder),
        )
        for each in runs
    ]
    print(format_table(("fold", "training", "validation", "held out", "folder"), rows))
    print(f"\nthe plan of the first of {len(runs)} folds:")
    return train.run(replace(runs[0].options, plan=True, resume=options.resume))


def _start(
    options: FoldsOptions, runs: list[FoldRun], earlier: FoldRecord | None, now: FoldRecord
) -> tuple[FoldRecord, list[FoldRun]]:
    """Start or resume all folds; return their state, and the runs with the values of `quick`.

    Other options are refused, unless no fold has got as far as a checkpoint.
    """
    has_work = earlier is not None and earlier.has_work(options.out)
    record = now
    if earlier is not None and has_work:
        if not options.resume:
            raise UserError(f"{options.out} already holds folds; drop --no-resume to go on")
        earlier.check(options.out, now)
        record = earlier
    if isinstance(options.recipe, QuickRecipe):
        device = find_device(options.devices[0]) if options.devices else (options.compute.device, 0)
        set_up_cpu(options.compute.threads)
        first = runs[0]
        fitted = fit(
            replace(options, resume=has_work),
            first.training,
            first.validation,
            resolve_device(*device),
            ALONE,
        )
        options = replace(options, recipe=fitted.recipe)
        runs = [replace(each, options=replace(each.options, recipe=fitted.recipe)) for each in runs]
    write_json(options.out / CONFIG_FILE, plain_options(options))
    record.write(options.out)
    return record, runs


def _train(
    options: FoldsOptions,
    runs: Sequence[FoldRun],
    devices: Sequence[tuple[DeviceName, int]],
    record: FoldRecord,
) -> int:
    """Train and score the folds that are not finished, and return the exit code."""
    finished = {
        each.folder
        for each in runs
        if each.folder.name in record.finished and _scores_path(each).is_file()
    }
    if finished:
        verb = "is" if len(finished) == 1 else "are"
        print(f"{len(finished)} of {len(runs)} folds {verb} finished already")
    todo = [each for each in runs if each.folder not in finished]
    return (
        _train_on(devices, options, todo, record) if devices else _train_here(options, todo, record)
    )


def _train_here(options: FoldsOptions, todo: Sequence[FoldRun], record: FoldRecord) -> int:
    for each in todo:
        print(
            f"\nfold {each.name}: {len(each.training.records)} training and {each.held_out} "
            f"held-out videos, {printable(each.folder)}"
        )
        code = train_and_score(each.options, options.clips)
        if code == 1:  # the network of the last epoch is not on the disk
            print("free space on the disk, then the same command goes on with this fold")
        if code:
            return code
        _finish(options, each, record)
    return 0


def _train_on(
    devices: Sequence[tuple[DeviceName, int]],
    options: FoldsOptions,
    todo: Sequence[FoldRun],
    record: FoldRecord,
) -> int:
    """Train folds in processes of their own, one on each device at a time."""
    jobs: dict[str, Job] = {}
    by_name = {each.folder.name: each for each in todo}
    for name, each in by_name.items():
        compute = replace(each.options.compute, device=devices[0][0])
        work = partial(train_and_score, replace(each.options, compute=compute), options.clips)
        jobs[name] = Job(name, work, each.folder / "output.log")

    def announce(job: Job) -> None:
        make_folder(job.log.parent)
        print(printable(f"{job.name}: starts, its output goes to {job.log}"), flush=True)

    with StopRequest() as stop:
        for job in run_on_devices(
            list(jobs.values()), [index for _, index in devices], stop, announce
        ):
            each = by_name[job.name]
            _finish(options, each, record)
            top1 = top1_of(read_score_file(_scores_path(each)))
            print(
                printable(f"{job.name}: {format_percent(top1)} of {each.held_out} videos"),
                flush=True,
            )
        if stop.signal is not None:
            print(f"stopped by {stop.signal.name}; the same command goes on with these folds")
            return stop.exit_code
    return 0


def train_and_score(options: TrainOptions, clips: NumClips) -> int:
    """Train a fold, or the rest of it, and score its held-out videos; return the exit code."""
    code = train.run(options, remedy="the same command goes on with this fold")
    if code == 0:
        evaluate.run(
            EvalOptions(
                data=options.data,
                weights=options.out / BEST_FILE,
                split="test",
                clips=clips,
                run=(options.out,),
                compute=options.compute,
                on_bad_video=options.on_bad_video,
            )
        )
    return code


def _finish(options: FoldsOptions, each: FoldRun, record: FoldRecord) -> None:
    """Record that a fold is finished."""
    if each.folder.name not in record.finished:
        record.finished.append(each.folder.name)
    record.write(options.out)


def _scores_path(each: FoldRun) -> Path:
    return each.folder / TEST_FOLDER / LOGITS_FILE


def _report(options: FoldsOptions, runs: Sequence[FoldRun]) -> None:
    """Pool the held-out scores of all folds; print and write what they say."""
    files = [Named(each.folder.name, read_score_file(_scores_path(each))) for each in runs]
    pooled = pool(files)
    facts = {"split": "held out", "folds": options.folds}
    scores = replace(pooled, protocol={**pooled.protocol, **facts})
    rows = [
        FoldFigures(each.name, len(each.training.records), len(file.paths), top1_of(file))
        for each, (_, file) in zip(runs, files, strict=True)
    ]
    shown = [(*row[:3], format_percent(row.top1)) for row in rows]
    print("\n" + format_table(("fold", "training", "held out", "top-1"), shown))
    metrics = [
        json.loads((each.folder / TEST_FOLDER / METRICS_FILE).read_text(encoding="utf-8"))
        for each in runs
    ]
    seen = sum(each["trained_on"] or 0 for each in metrics)
    print(describe_held_out(scores, [row.top1 for row in rows], seen))
    if bad := sum(len(each["bad"]) for each in metrics):
        print(f"NOT MEASURED: {counted(bad, 'video')} that cannot be read")
    if missing := sum(each["missing"] for each in metrics):
        print(f"NOT MEASURED: {counted(missing, 'listed video')} not found")
    table = [(*row[:3], f"{row.top1:.5f}") for row in rows]
    write_held_out(options.out, scores, ("fold", "training", "videos", "top1"), table)
