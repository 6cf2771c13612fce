"""The training loop: epochs, validation, logging and saving."""

from __future__ import annotations

import time
from dataclasses import dataclass, field
from typing import Any

from tqdm import tqdm

from p3d.data.dataset import VideoDataset
from p3d.data.loader import Batch, TrainLoader
from p3d.errors import UserError, printable
from p3d.system.device import peak_memory
from p3d.system.progress import ProgressBar
from p3d.system.signals import Stopped, StopRequest, postponed_child_signal
from p3d.training.comparison import compare_answers
from p3d.training.console import epoch_line, step_text
from p3d.training.kept_networks import keep_networks
from p3d.training.log import RunLog
from p3d.training.options import TrainOptions
from p3d.training.saver import Saver
from p3d.training.state import TrainState
from p3d.training.step import Step, train_step
from p3d.training.timing import Stopwatch
from p3d.training.validation import validate

NUM_SHOWN_CLIPS = 4
"""Training clips of each epoch that are written for TensorBoard."""


@dataclass
class Trainer:
    """A training run: its state, data and files.

    Attributes:
        state: The network, its optimizer and its progress.
        options: Options of the run.
        loader: This rank's training clips.
        validation: The validation list; may be empty.
        fingerprint: The options that the weights depend on; saved with them.
        stop: Whether a stop was requested.
        log: The run's log, on the main process.
        saver: Writer of the run's files, on the main process.
        watch: Times of the steps and validations of this process.
        reported: What was printed about broken videos.
    """

    state: TrainState
    options: TrainOptions
    loader: TrainLoader
    validation: VideoDataset
    fingerprint: dict[str, str]
    stop: StopRequest
    log: RunLog | None = None
    saver: Saver | None = None
    watch: Stopwatch = field(init=False)
    reported: set[str] = field(init=False, default_factory=set)

    def __post_init__(self) -> None:
        """Start to measure time."""
        options = self.options
        videos = len(self.validation.records)
        self.watch = Stopwatch(self.loader, options.workers, videos, options.validation_clips)

    def train(self) -> bool:
        """Train until the run is finished, patience runs out, or a stop is requested.

        Returns:
            True if a stop ended the run; it was saved then, unless writing failed.

        Raises:
            UserError: The data or the loss ends the run, or another process was lost. What was done
                since the last checkpoint is saved first, unless a step was not complete.
            RuntimeError: A worker process was lost; saved in the same way.
        """
        try:
            return self._train()
        except (UserError, OSError, RuntimeError):
            step = self.state.progress.step
            if self.saver is not None and not self.state.in_step and step > self.saver.saved_step:
                self.save()
            raise

    def _train(self) -> bool:
        while not (self.state.is_finished or self._is_out_of_patience()):
            if not self._train_epoch():
                self.save()
                return True
            try:
                self._finish_epoch()
            except Stopped:
                self.save()
                return True
            if self.state.group.any(self.stop.is_set):
                return not self.state.is_finished
        return False

    def write_log(self, event: str, **values: Any) -> None:
        """Record an event in the run's log."""
        if self.log is not None:
            self.log.write(event, self.state.progress.step, **values)

    @property
    def _num_epochs(self) -> int:
        """Number of epochs of the whole run; `--max-steps` may end it early."""
        return -(-self.state.total_steps // self.loader.steps_per_epoch)

    def save(self) -> None:
        """Save a checkpoint."""
        if self.saver is not None:
            self.saver.save(self.state.checkpoint(self.fingerprint))

    def _is_out_of_patience(self) -> bool:
        progress, patience = self.state.progress, self.options.patience
        if patience is None or progress.improved_epoch is None:
            return False
        return progress.epoch - progress.improved_epoch >= patience

    def _train_epoch(self) -> bool:
        """Train the rest of the current epoch; return False if a stop ended it early."""
        state, progress = self.state, self.state.progress
        steps_per_epoch = self.loader.steps_per_epoch
        if state.all_steps_done or progress.step_in_epoch >= steps_per_epoch:
            return True
        state.model.train()
        left = state.total_steps - progress.step  # --max-steps may end the run in this epoch
        bar = ProgressBar(
            min(steps_per_epoch, progress.step_in_epoch + left),
            f"epoch {progress.epoch + 1}/{self._num_epochs}",
            "step",
            done=progress.step_in_epoch,
            has_text=True,
            leave=False,
            shown=state.group.is_main,
        )
        with bar:
            start = time.perf_counter()
            for batches in self.loader.steps(progress.epoch, progress.step_in_epoch):
                waited = time.perf_counter() - start
                with postponed_child_signal():  # a lost worker must not end a step half way
                    step = train_step(state, batches)
                    end = time.perf_counter()
                    self._report_step(bar, batches, step, end - start, waited)
                start = end
                is_over = state.all_steps_done or progress.step_in_epoch >= steps_per_epoch
                # Signals reach the ranks at different times; all ranks must make the same decision.
                is_stopped = state.group.any(self.stop.is_set)
                if is_over or is_stopped:
                    return is_over
                if self.saver is not None and self.saver.is_due(progress.step):
                    self.save()
        return True

    def _report_step(
        self,
        bar: ProgressBar,
        batches: tuple[Batch, ...],
        step: Step,
        seconds: float,
        waited: float,
    ) -> None:
        """Write a step to the log and the progress bar."""
        state, progress = self.state, self.state.progress
        progress.seconds += seconds
        progress.waited += waited
        for line in (line for batch in batches for line in batch.bad):
            if line not in self.reported:  # a line a video, not one in each epoch
                self.reported.add(line)
                tqdm.write(f"skipped {printable(line)}")
        values: dict[str, float] = {
            "loss": step.loss,
            "top1": round(step.top1, 4),
            "top5": round(step.top5, 4),
            "lr": step.lr,
            "gradient_norm": step.gradient_norm,
            "clips_per_second": round(step.clips / seconds, 2),
            "data_wait": round(waited / seconds, 3),
            "memory_mib": round(peak_memory(state.device) / 2**20),
        }
        if state.scaler.is_enabled():
            values |= {"scale": state.scaler.get_scale(), "overflows": progress.overflows}
        self.write_log("step", epoch=progress.epoch + 1, **values)
        if progress.step_in_epoch == 1:
            self._log_clips(batches[0])
        was_settled = self.watch.is_settled
        self.watch.add_step(seconds, waited)
        rest = self.watch.rest(state)
        bar.advance(text=step_text(progress, values, rest))
        if state.group.is_main and rest and self.watch.is_settled and not was_settled:
            tqdm.write(f"time left: {rest}")

    def _log_clips(self, batch: Batch) -> None:
        """Write a few of the epoch's first clips, as the network gets them, for TensorBoard."""
        dataset = self.state.dataset
        records = [dataset.records[index] for index in batch.indices[:NUM_SHOWN_CLIPS].tolist()]
        captions = [printable(f"{dataset.class_names[r.label]}: {r.short_name}") for r in records]
        if self.log is not None and records:
            clips = batch.clips[:NUM_SHOWN_CLIPS]
            self.log.write_clips("train/clips", clips, self.state.progress.step, captions)

    def _finish_epoch(self) -> None:
        """Validate, report, keep the networks, and save a checkpoint for the next epoch.

        Raises:
            Stopped: A stop was requested during validation, which a resumed run repeats.
        """
        state, progress = self.state, self.state.progress
        values: dict[str, float] = {
            f"train_{name}": mean for name, mean in progress.means().items()
        }
        validation = None
        if self.validation.records:
            start = time.perf_counter()
            validation = validate(state, self.validation, self.options, self.stop)
            self.watch.add_validation(time.perf_counter() - start)
        if validation is not None:
            accuracy = validation.accuracy
            values |= {
                "validation_loss": accuracy.loss,
                "validation_top1": accuracy.top1,
                "validation_top5": accuracy.top5,
            }
        values |= {
            "seconds": round(progress.seconds, 1),
            "clips_per_second": round(progress.clips / max(progress.seconds, 1e-9), 2),
            "data_wait": round(progress.waited / max(progress.seconds, 1e-9), 3),
            "bad_videos": progress.bad,
        }
        if state.scaler.is_enabled():
            values["overflows"] = progress.overflows
        keep_networks(state, self.options, self.validation, self.saver, validation)
        comparison = None
        if validation is not None:
            comparison = compare_answers(progress.best_answers, validation.answers)
        self.write_log(
            "epoch",
            epoch=progress.epoch + 1,
            **values,
            best_epoch=progress.best_epoch,
            against_best=comparison,
        )
        if state.group.is_main:
            tqdm.write(epoch_line(progress.epoch + 1, self._num_epochs, values))
        progress.next_epoch()
        self.save()
