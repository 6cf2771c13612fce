"""The loop of a training run: epochs, validation, and what is kept of them."""

from __future__ import annotations

import time
from dataclasses import asdict, dataclass
from typing import Any

from tqdm import tqdm

from p3d.data.dataset import VideoDataset
from p3d.data.loader import Batch, TrainLoader
from p3d.evaluation.metrics import measure
from p3d.inference.scorer import Scorer
from p3d.inference.scoring import VideoScores, score_videos, write_scores
from p3d.run_folder import BEST
from p3d.system.device import peak_memory
from p3d.system.signals import Stopped, StopRequest
from p3d.system.text import format_share
from p3d.training.checkpoint import Saver
from p3d.training.console import epoch_line
from p3d.training.log import RunLog
from p3d.training.options import TrainOptions
from p3d.training.state import Run
from p3d.training.step import Step, remaining_steps, train_step
from p3d.weights.metadata import save_model

SHOWN_CLIPS = 4
"""Training clips an epoch that TensorBoard gets."""


@dataclass
class Job:
    """A run with all that surrounds it.

    Attributes:
        run: The network and its state.
        options: What was asked for.
        loader: This process's training clips.
        validation: The validation list; may be empty.
        fingerprint: What the weights depend on; saved with them.
        stop: Whether somebody wants the run to stop.
        log: The run's log, on the main process.
        saver: The run's files, on the main process.
    """

    run: Run
    options: TrainOptions
    loader: TrainLoader
    validation: VideoDataset
    fingerprint: dict[str, str]
    stop: StopRequest
    log: RunLog | None = None
    saver: Saver | None = None

    def note(self, event: str, **values: Any) -> None:
        """Record something in the run's log."""
        if self.log is not None:
            self.log.write(event, self.run.progress.step, **values)

    def save(self) -> None:
        """Save the run as it stands."""
        if self.saver is not None:
            state = self.run.state() | {"fingerprint": self.fingerprint}
            self.saver.save(self.run.progress.step, state)


def train_all(job: Job) -> bool:
    """Train until the run is over, patience is at its end, or a stop is asked for.

    Returns:
        Whether it was stopped; it is saved then, unless the saver failed.
    """
    while not (job.run.is_over or _out_of_patience(job)):
        if not train_epoch(job):
            job.save()
            return True
        try:
            finish_epoch(job)
        except Stopped:
            job.save()
            return True
        if job.run.group.any(job.stop.is_set):
            return not job.run.is_over
    return False


def _out_of_patience(job: Job) -> bool:
    progress, patience = job.run.progress, job.options.patience
    if patience is None or progress.best_epoch is None:
        return False
    return progress.epoch - progress.best_epoch >= patience


def train_epoch(job: Job) -> bool:
    """Go on with the epoch under way; False where a stop was asked for before its end."""
    run, progress, steps = job.run, job.run.progress, job.loader.steps_per_epoch
    if run.all_steps_taken or progress.step_in_epoch >= steps:
        return True
    run.model.train()
    bar = tqdm(
        desc=f"epoch {progress.epoch + 1}/{run.recipe.epochs}",
        total=steps,
        initial=progress.step_in_epoch,
        unit="step",
        disable=None if run.group.is_main else True,
        leave=False,
    )
    with bar:
        began = time.perf_counter()
        for batches in remaining_steps(run, job.loader):
            waited = time.perf_counter() - began
            step = train_step(run, batches)
            now = time.perf_counter()
            _tell_step(job, bar, batches, step, now - began, waited)
            began = now
            over = run.all_steps_taken or progress.step_in_epoch >= steps
            # All processes must decide alike, and a signal reaches them one by one.
            stopped = run.group.any(job.stop.is_set)
            if over or stopped:
                return over
            if job.saver is not None and job.saver.is_due(progress.step):
                job.save()
    return True


def _tell_step(
    job: Job, bar: Any, batches: tuple[Batch, ...], step: Step, seconds: float, waited: float
) -> None:
    """A step in the log and in the bar."""
    run, progress = job.run, job.run.progress
    progress.seconds += seconds
    progress.waited += waited
    for line in (line for batch in batches for line in batch.bad):
        tqdm.write(f"skipped {line}")
    values: dict[str, float] = {
        "loss": step.loss,
        "top1": round(step.top1, 4),
        "top5": round(step.top5, 4),
        "lr": step.rate,
        "gradient_norm": step.gradient_norm,
        "clips_per_second": round(step.clips / seconds, 2),
        "data_wait": round(waited / seconds, 3),
        "memory_mib": round(peak_memory(run.device) / 2**20),
    }
    if run.scaler.is_enabled():
        values |= {"scale": run.scaler.get_scale(), "overflows": progress.overflows}
    job.note("step", epoch=progress.epoch + 1, **values)
    if job.log is not None and progress.step_in_epoch == 1:
        _show_clips(job, job.log, batches[0])
    means = progress.means()
    words = (
        f"loss {means['loss']:.3f}, top-1 {format_share(means['top1'])}, "
        f"top-5 {format_share(means['top5'])}, lr {step.rate:.2g}, "
        f"{values['clips_per_second']:.3g} clips/s, {values['data_wait']:.0%} waiting, "
        f"{values['memory_mib']:,.0f} MiB"
    )
    bar.set_postfix_str(words + (f", scale {values['scale']:.0f}" if "scale" in values else ""))
    bar.update()


def _show_clips(job: Job, log: RunLog, batch: Batch) -> None:
    """A few of an epoch's first clips, as the network saw them, for TensorBoard."""
    records, names = job.run.dataset.records, job.run.dataset.class_names
    shown = [records[place] for place in batch.indices[:SHOWN_CLIPS].tolist()]
    captions = [f"{names[record.label]}: {record.path.name}" for record in shown]
    if shown:
        clips = batch.clips[:SHOWN_CLIPS]
        log.write_clips("train/clips", clips, job.run.progress.step, captions)


def validate(job: Job) -> VideoScores:
    """Score the validation list, each process its share.

    A young network's normalisations may not have settled: that must not end a run. Videos whose
    scores are not finite are told, and get a score of 0 for each class but -1 for their own.

    Raises:
        Stopped: A stop was asked for.
    """
    run, options = job.run, job.options
    run.group.share_buffers(run.model)
    scorer = Scorer(
        run.model, run.device, run.precision, batch_size=run.recipe.batch_size, strict=False
    )
    scored = score_videos(
        scorer,
        job.validation,
        clips=options.validation_clips,
        workers=options.workers,
        on_bad_video=options.on_bad_video,
        label="validating",
        group=run.group,
        stop=job.stop,
    )
    broken = ~scored.scores.isfinite().all(1)
    if broken.any():
        scored.scores[broken] = 0
        scored.scores[broken, scored.labels[broken]] = -1
        if run.group.is_main:
            tqdm.write(
                f"NOT FINITE: the scores of {int(broken.sum())} validation videos, which count as "
                "wrong; should that go on, lower --lr or check the weights"
            )
    return scored


def finish_epoch(job: Job) -> None:
    """Validate, report, keep the best network, and save the run at the start of the next epoch.

    Raises:
        Stopped: A stop was asked for in the validation; it is done again after a resume.
    """
    run, progress = job.run, job.run.progress
    values: dict[str, float] = {f"train_{name}": part for name, part in progress.means().items()}
    scored = validate(job) if job.validation.records else None
    top1 = None
    if scored is not None:
        accuracy = measure(scored.scores, scored.labels)
        top1 = accuracy.top1
        values |= {
            "validation_loss": accuracy.loss,
            "validation_top1": top1,
            "validation_top5": accuracy.top5,
        }
    values |= {
        "seconds": round(progress.seconds, 1),
        "clips_per_second": round(progress.clips / max(progress.seconds, 1e-9), 2),
        "data_wait": round(progress.waited / max(progress.seconds, 1e-9), 3),
        "bad_videos": progress.bad,
    }
    if run.scaler.is_enabled():
        values["overflows"] = progress.overflows
    if top1 is None or top1 > progress.best_top1:
        _keep_best(job, scored, top1)
    job.note("epoch", epoch=progress.epoch + 1, **values)
    if run.group.is_main:
        tqdm.write(epoch_line(run, values))
    progress.next_epoch()
    job.save()


def _keep_best(job: Job, scored: VideoScores | None, top1: float | None) -> None:
    """Write the best network so far; where that fails, the best before it stays the best."""
    run, options, progress = job.run, job.options, job.run.progress

    def write() -> None:
        source = "trained by p3d" if options.weights is None else f"from {options.weights.name}"
        save_model(run.model, options.out / BEST, source=source, recipe=asdict(run.recipe))
        if scored is not None:
            write_scores(options.out / "validation.csv", job.validation, scored)

    done = job.saver is None or job.saver.attempt(progress.step, write)
    if run.group.any(not done):
        return
    progress.best_epoch = progress.epoch + 1
    if top1 is not None:
        progress.best_top1 = top1
