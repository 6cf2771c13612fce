"""Batches of clips, the same whatever the number of workers, processes and restarts.

A training clip is a function of the seed, the epoch and its number within the epoch's clips; the
order of an epoch is a function of seed and epoch. So a sampler yields pairs (epoch, number), and
workers that live through all epochs need to be told nothing. All processes walk through the same
global order and each takes its share of every global batch.

In evaluation every video is seen exactly once over all processes, and nothing is padded.
"""

# ruff: noqa: PT028 (`test_loader` is not a test)

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any, Literal, NamedTuple

import torch
from torch import Tensor
from torch.utils.data import DataLoader, default_collate

from p3d.data.clips import Sample, TestVideos, TrainClips, check_source
from p3d.data.dataset import VideoDataset
from p3d.data.sampler import StepSampler
from p3d.data.transforms import Augmentation
from p3d.data.workers import Videos, explain_death, make_loader
from p3d.errors import BadVideoError, UserError
from p3d.preprocessing import Preprocessing
from p3d.video.decode import open_video

BadVideoPolicy = Literal["error", "skip"]


class Batch(NamedTuple):
    """What one step works on.

    Attributes:
        clips: uint8 `(N, T, H, W, C)` in training, `(N, clips, T, H, W, C)` in evaluation.
        labels: int64 `(N,)`.
        indices: int64 `(N,)`, the videos' places in the data set.
        bad: A line for each video that was skipped. `N` is smaller by as many; it may be 0.
    """

    clips: Tensor
    labels: Tensor
    indices: Tensor
    bad: tuple[str, ...]


class _Result(NamedTuple):
    # An error travels as a value: of a worker's exceptions, a loader makes others that hold a
    # traceback in their text.
    batch: Batch
    error: BadVideoError | None


@dataclass(frozen=True)
class _Collate:
    """Stacks what was read; says what was not."""

    shape: tuple[int, ...]
    on_bad_video: BadVideoPolicy

    def __call__(self, items: Sequence[Sample | BadVideoError]) -> _Result:
        samples = [item for item in items if isinstance(item, Sample)]
        errors = [item for item in items if isinstance(item, BadVideoError)]
        if errors and self.on_bad_video == "error":
            samples = []
        # In a worker, `default_collate` stacks straight into shared memory.
        clips = (
            default_collate([sample.clips for sample in samples])
            if samples
            else torch.empty((0, *self.shape), dtype=torch.uint8)
        )
        batch = Batch(
            clips,
            torch.tensor([sample.label for sample in samples], dtype=torch.int64),
            torch.tensor([sample.video for sample in samples], dtype=torch.int64),
            tuple(str(error) for error in errors),
        )
        return _Result(batch, errors[0] if errors and self.on_bad_video == "error" else None)


class TrainLoader:
    """Batches of training clips, `batches_per_step` for each optimiser step.

    Args:
        dataset: The training split.
        prep: The network's preprocessing.
        batch_size: The most clips a batch has.
        seed: The run's seed, >= 0.
        clips_per_step: Clips of an optimiser step over all processes; one batch for each process by
            default. The clips of a step depend on nothing but this number, the seed and the epoch.
        augmentation: How a clip's box is drawn, see `p3d.data.transforms.draw_train_transform`.
        flip_probability: Of mirroring a clip, 0 to 1.
        clips_per_video: Clips drawn from each video in an epoch.
        workers: Processes that decode; 0 decodes in this one. They live through all epochs.
        on_bad_video: Raise `BadVideoError`, or leave the video out and name it in the batch.
        rank: This process's number among `world_size`.
        world_size: Processes that train together, see `p3d.data.sampler.StepSampler`.
        pin_memory: Hand out batches in memory that a GPU copies from asynchronously.

    Raises:
        UserError: A number is out of range, there are fewer clips than processes, or the videos
            hold pictures where the network takes optical flow, or the other way round.
    """

    def __init__(
        self,
        dataset: VideoDataset,
        prep: Preprocessing,
        *,
        batch_size: int,
        seed: int,
        clips_per_step: int | None = None,
        augmentation: Augmentation = "random-resized-crop",
        flip_probability: float = 0.5,
        clips_per_video: int = 1,
        workers: int = 0,
        on_bad_video: BadVideoPolicy = "error",
        rank: int = 0,
        world_size: int = 1,
        pin_memory: bool = False,
    ) -> None:
        _check(batch_size, workers, rank, world_size)
        if clips_per_video < 1 or seed < 0 or not 0 <= flip_probability <= 1:
            raise UserError(
                f"clips_per_video {clips_per_video} must be at least 1, seed {seed} at least 0, "
                f"flip_probability {flip_probability} from 0 to 1"
            )
        clips = len(dataset.records) * clips_per_video
        if clips < world_size:
            raise UserError(
                f"{clips} training clips are too few for {world_size} processes; "
                "add videos or start fewer processes"
            )
        check_dataset(dataset, prep)
        self._sampler = StepSampler(
            clips,
            clips_per_step=clips_per_step or batch_size * world_size,
            batch_size=batch_size,
            seed=seed,
            rank=rank,
            world_size=world_size,
        )
        videos = Videos(dataset, workers)
        self._loader = make_loader(
            TrainClips(videos, prep, seed, augmentation, flip_probability),
            self._sampler,
            _Collate(_clip_shape(prep), on_bad_video),
            workers,
            pin_memory,
            persistent=True,
        )

    @property
    def clips_per_step(self) -> int:
        """Clips of an optimiser step over all processes."""
        return self._sampler.clips_per_step

    @property
    def steps_per_epoch(self) -> int:
        """Optimiser steps in a whole epoch."""
        return self._sampler.steps_per_epoch

    @property
    def batches_per_step(self) -> int:
        """Batches that a process gets for each step, the same on all processes."""
        return self._sampler.batches_per_step

    def epoch(self, epoch: int, start_step: int = 0) -> Iterator[Batch]:
        """Yield this process's batches of an epoch, from any step on; none before is decoded.

        A batch is empty where a step has too few clips for all processes. Starting another epoch
        ends this one.

        Raises:
            BadVideoError: A video cannot be read and the policy is "error".
        """
        self._sampler.epoch = epoch
        self._sampler.start_step = start_step
        yield from _unpack(self._loader)


class TestLoader:
    """Batches of evaluation videos, each with all its clips; made by `test_loader`."""

    __test__ = False  # for pytest: this is no test

    def __init__(self, loader: DataLoader[Any], batches: int) -> None:
        self._loader = loader
        self._batches = batches

    def __len__(self) -> int:
        """Batches on this process."""
        return self._batches

    def __iter__(self) -> Iterator[Batch]:
        """Yield all batches, in the order of the data set.

        Raises:
            BadVideoError: A video cannot be read and the policy is "error".
        """
        return _unpack(self._loader)


def test_loader(
    dataset: VideoDataset,
    prep: Preprocessing,
    *,
    clips: int,
    batch_size: int,
    workers: int = 0,
    on_bad_video: BadVideoPolicy = "error",
    rank: int = 0,
    world_size: int = 1,
    pin_memory: bool = False,
) -> TestLoader:
    """Batches of whole videos, each as uniformly spaced clips, resized and cropped at the centre.

    Process `rank` sees the videos `rank`, `rank + world_size`, ...: over all processes every video
    exactly once, so that processes may have different numbers of batches, or none.

    Args:
        dataset: The split; may be empty.
        prep: The network's preprocessing.
        clips: Clips a video, see `p3d.data.sampling.uniform_windows`.
        batch_size: Videos a batch; a batch has `batch_size` x `clips` clips.
        workers: Processes that decode; 0 decodes in this one.
        on_bad_video: Raise `BadVideoError`, or leave the video out and name it in the batch.
        rank: This process's number among `world_size`.
        world_size: Processes that evaluate together.
        pin_memory: Hand out batches in memory that a GPU copies from asynchronously.

    Raises:
        UserError: A number is out of range, or the videos hold pictures where the network takes
            optical flow, or the other way round.
    """
    _check(batch_size, workers, rank, world_size)
    if clips < 1:
        raise UserError(f"clips {clips} must be at least 1; the paper's protocol takes 20")
    check_dataset(dataset, prep)
    share = range(len(dataset.records))[rank::world_size]
    batches = [list(share[i : i + batch_size]) for i in range(0, len(share), batch_size)]
    loader = make_loader(
        TestVideos(Videos(dataset, workers), prep, clips),
        batches,
        _Collate((clips, *_clip_shape(prep)), on_bad_video),
        min(workers, len(batches)),
        pin_memory,
        persistent=False,
    )
    return TestLoader(loader, len(batches))


test_loader.__test__ = False  # type: ignore[attr-defined]  # for pytest: this is no test


def _check(batch_size: int, workers: int, rank: int, world_size: int) -> None:
    if batch_size < 1 or workers < 0:
        raise UserError(
            f"batch_size {batch_size} must be at least 1 and workers {workers} at least 0"
        )
    if not 0 <= rank < world_size:
        raise UserError(f"rank {rank} must be from 0 to below world_size {world_size}")


def _clip_shape(prep: Preprocessing) -> tuple[int, ...]:
    return (prep.num_frames, prep.crop, prep.crop, len(prep.mean))


def _unpack(loader: DataLoader[Any]) -> Iterator[Batch]:
    try:
        for batch, error in loader:
            if error is not None:
                raise error
            yield batch
    except RuntimeError as error:
        told = explain_death(error)
        if told is None:
            raise
        raise told from error


def check_dataset(dataset: VideoDataset, prep: Preprocessing) -> None:
    """`check_source` for the first video of a data set that can be opened, if there is one."""
    for record in dataset.records:
        try:
            with open_video(record.path) as video:
                source = video
        except BadVideoError:
            continue
        check_source(record.path, source, prep)
        return
