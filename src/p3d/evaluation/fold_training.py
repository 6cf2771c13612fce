"""Train and measure the folds of a data set, here or each in a process of its own."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace
from functools import partial
from pathlib import Path

from p3d.errors import printable
from p3d.evaluation import evaluate
from p3d.evaluation.fold_plan import FoldRun
from p3d.evaluation.fold_record import FoldRecord
from p3d.evaluation.held_out import top1_of
from p3d.evaluation.options import EvalOptions
from p3d.inference.clip_plan import NumClips
from p3d.run_folder import BEST_FILE, LOGITS_FILE
from p3d.scores.score_file import read_score_file
from p3d.system.children import Job, run_on_devices
from p3d.system.device import DeviceName
from p3d.system.folders import make_folder
from p3d.system.signals import StopRequest
from p3d.system.text import format_percent
from p3d.training import train
from p3d.training.options import TrainOptions

TEST_FOLDER = "test"
"""Folder of a fold's evaluation, in that of its run."""


def train_folds(
    runs: Sequence[FoldRun],
    clips: NumClips,
    devices: Sequence[tuple[DeviceName, int]],
    record: FoldRecord,
    out: Path,
) -> int:
    """Train and score the folds that are not finished, and return the exit code.

    Args:
        runs: All folds.
        clips: Clips of each held-out video.
        devices: Train a fold on each of these at a time; one after another here if there are none.
        record: Which folds are finished; it is updated and written.
        out: Folder for the record.
    """
    finished = {
        each.folder
        for each in runs
        if each.folder.name in record.finished and scores_path(each).is_file()
    }
    if finished:
        verb = "is" if len(finished) == 1 else "are"
        print(f"{len(finished)} of {len(runs)} folds {verb} finished already")
    todo = [each for each in runs if each.folder not in finished]
    finish = partial(_finish, out, record)
    if devices:
        return _train_on(devices, todo, clips, finish)
    return _train_here(todo, clips, finish)


def _train_here(todo: Sequence[FoldRun], clips: NumClips, finish: Callable[[FoldRun], None]) -> int:
    for each in todo:
        print(
            f"\nfold {each.name}: {len(each.training.records)} training and {each.held_out} "
            f"held-out videos, {printable(each.folder)}"
        )
        code = train_and_score(each.options, clips)
        if code == 1:  # the network of the last epoch is not on the disk
            print("free space on the disk, then the same command goes on with this fold")
        if code:
            return code
        finish(each)
    return 0


def _train_on(
    devices: Sequence[tuple[DeviceName, int]],
    todo: Sequence[FoldRun],
    clips: NumClips,
    finish: Callable[[FoldRun], None],
) -> int:
    """Train folds in processes of their own, one on each device at a time."""
    jobs: dict[str, Job] = {}
    by_name = {each.folder.name: each for each in todo}
    for name, each in by_name.items():
        compute = replace(each.options.compute, device=devices[0][0])
        work = partial(train_and_score, replace(each.options, compute=compute), clips)
        jobs[name] = Job(name, work, each.folder / "output.log")

    def announce(job: Job) -> None:
        make_folder(job.log.parent)
        print(printable(f"{job.name}: starts, its output goes to {job.log}"), flush=True)

    with StopRequest() as stop:
        for job in run_on_devices(
            list(jobs.values()), [index for _, index in devices], stop, announce
        ):
            each = by_name[job.name]
            finish(each)
            top1 = top1_of(read_score_file(scores_path(each)))
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


def _finish(out: Path, record: FoldRecord, each: FoldRun) -> None:
    """Record that a fold is finished."""
    if each.folder.name not in record.finished:
        record.finished.append(each.folder.name)
    record.write(out)


def scores_path(each: FoldRun) -> Path:
    """Return the file of the scores of a fold's held-out videos."""
    return each.folder / TEST_FOLDER / LOGITS_FILE
