"""Batches of training clips, independent of the number of worker processes, ranks and restarts.

A training clip is a function of the seed, the epoch and its number within the epoch. The order of
an epoch is a function of the seed and the epoch. The sampler yields pairs (epoch, number), so
worker processes can stay alive between epochs. All ranks follow the same global order, and each
takes its shard of every step.
"""

from __future__ import annotations

import itertools
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from typing import Any, Literal, NamedTuple

import torch
from torch import Tensor
from torch.utils.data import DataLoader, default_collate

from p3d.data.clips import Sample, TrainClips, Unread, check_source
from p3d.data.dataset import VideoDataset
from p3d.data.sampler import StepSampler
from p3d.data.transforms import Augmentation
from p3d.data.workers import Videos, explain_death, make_loader
from p3d.errors import BadVideoError, OtherFlowError, UserError
from p3d.preprocessing import Preprocessing
from p3d.system.distributed import ALONE, Group
from p3d.video.decode import open_video

BadVideoPolicy = Literal["error", "skip"]


class Batch(NamedTuple):
    """Clips of some videos of a data set.

    Attributes:
        clips: uint8 `(N, T, H, W, C)`.
        labels: int64 `(N,)`.
        indices: int64 `(N,)`, positions of the videos in the data set.
        bad: One line for each video that was skipped. N is smaller by the number of clips that
            could not be read, and may be 0. A video with several clips in an epoch has a line only
            at the first of them.
    """

    clips: Tensor
    labels: Tensor
    indices: Tensor
    bad: tuple[str, ...]


class _Result(NamedTuple):
    # Errors are returned, since DataLoader re-raises an exception of a worker process with the
    # traceback in its text.
    batch: Batch
    error: BadVideoError | None


@dataclass(frozen=True)
class _Collate:
    """Stack samples and collect the errors of videos that could not be read."""

    shape: tuple[int, ...]
    on_bad_video: BadVideoPolicy

    def __call__(self, items: Sequence[Sample | Unread]) -> _Result:
        samples = [item for item in items if isinstance(item, Sample)]
        unread = [item for item in items if isinstance(item, Unread)]
        error = next((item.error for item in unread if self._stops_at(item.error)), None)
        if error is not None:
            samples = []
        # In a worker process `default_collate` stacks directly into shared memory.
        clips = (
            default_collate([sample.clips for sample in samples])
            if samples
            else torch.empty((0, *self.shape), dtype=torch.uint8)
        )
        batch = Batch(
            clips,
            torch.tensor([sample.label for sample in samples], dtype=torch.int64),
            torch.tensor([sample.video for sample in samples], dtype=torch.int64),
            tuple(str(item.error) for item in unread if item.is_first),
        )
        return _Result(batch, error)

    def _stops_at(self, error: BadVideoError) -> bool:
        return self.on_bad_video == "error" or isinstance(error, OtherFlowError)


class TrainLoader:
    """Batches of training clips, grouped by optimizer step.

    Args:
        dataset: The training split.
        prep: The network's preprocessing.
        batch_size: Largest number of clips in a batch.
        seed: Seed of the run, >= 0.
        clips_per_step: Clips of an optimizer step over all ranks; one batch a rank by default. The
            clips of a step depend only on this number, the seed and the epoch.
        augmentation: How the crop is drawn, see `p3d.data.transforms.draw_train_transform`.
        flip_probability: Probability of mirroring a clip, in [0, 1].
        clips_per_video: Clips drawn from each video in an epoch.
        balance: Draw the same number of clips from each class instead, see
            `p3d.data.balance.balanced_order`; the number of clips of an epoch is the same.
        workers: Worker processes that decode; 0 decodes in this process. They live for all epochs.
        on_bad_video: "error" raises `BadVideoError`; "skip" skips the video and reports it in the
            batch.
        group: The ranks that train together, see `p3d.data.sampler.StepSampler`.
        pin_memory: Return batches in pinned memory, for asynchronous copies to a GPU.

    Raises:
        UserError: A number is out of range, there are fewer clips than ranks, or the videos are RGB
            and the network takes optical flow, or vice versa.
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
        balance: bool = False,
        workers: int = 0,
        on_bad_video: BadVideoPolicy = "error",
        group: Group = ALONE,
        pin_memory: bool = False,
    ) -> None:
        _check_sizes(batch_size, workers)
        _check_draws(clips_per_video, seed, flip_probability)
        num_clips = len(dataset.records) * clips_per_video
        _check_ranks(num_clips, group)
        check_dataset(dataset, prep)
        videos = Videos(dataset, workers)
        self._sampler = StepSampler(
            num_clips,
            clips_per_step=clips_per_step or batch_size * group.world_size,
            batch_size=batch_size,
            seed=seed,
            rank=group.rank,
            world_size=group.world_size,
            labels=videos.labels if balance else None,
        )
        self._loader = make_loader(
            TrainClips(
                videos, prep, seed, augmentation, flip_probability, clips_per_video, balance
            ),
            self._sampler,
            _Collate(_clip_shape(prep), on_bad_video),
            workers,
            pin_memory,
        )

    @property
    def clips_per_step(self) -> int:
        """Clips of an optimizer step over all ranks."""
        return self._sampler.clips_per_step

    @property
    def steps_per_epoch(self) -> int:
        """Optimizer steps in a whole epoch."""
        return self._sampler.steps_per_epoch

    @property
    def batches_per_step(self) -> int:
        """Batches of a step on this rank; the same number on all ranks."""
        return self._sampler.batches_per_step

    @property
    def smallest_batch(self) -> int:
        """Clips of the smallest batch on any rank, besides empty ones and unreadable videos."""
        return self._sampler.smallest_batch

    def steps(self, epoch: int, start_step: int = 0) -> Iterator[tuple[Batch, ...]]:
        """Yield this rank's batches, step by step.

        A batch is empty if a step has fewer clips than ranks. Iterating over another epoch ends the
        current one.

        Args:
            epoch: The epoch, from 0.
            start_step: First step; the clips of earlier steps are not decoded.

        Raises:
            BadVideoError: A video cannot be read and the policy is "error".
            OtherFlowError: The optical flow of a video was computed in another way.
        """
        self._sampler.epoch = epoch
        self._sampler.start_step = start_step
        batches = _unpack(self._loader)
        while step := tuple(itertools.islice(batches, self.batches_per_step)):
            yield step


def _check_sizes(batch_size: int, workers: int) -> None:
    if batch_size < 1:
        raise UserError(f"--batch-size {batch_size}: must be at least 1")
    if workers < 0:
        raise UserError(f"--workers {workers}: must be at least 0; 0 decodes in the main process")


def _check_draws(clips_per_video: int, seed: int, flip_probability: float) -> None:
    if clips_per_video < 1 or seed < 0 or not 0 <= flip_probability <= 1:
        raise UserError(
            f"clips_per_video {clips_per_video} must be at least 1, seed {seed} at least 0, "
            f"flip_probability {flip_probability} from 0 to 1"
        )


def _check_ranks(num_clips: int, group: Group) -> None:
    if num_clips < group.world_size:
        raise UserError(
            f"{num_clips} training clips are too few for {group.world_size} processes; add videos "
            "or start fewer processes"
        )


def _clip_shape(prep: Preprocessing) -> tuple[int, ...]:
    return (prep.num_frames, prep.crop, prep.crop, len(prep.mean))


def _unpack(loader: DataLoader[Any]) -> Iterator[Batch]:
    try:
        for batch, error in loader:
            if error is not None:
                raise with_remedy(error)
            yield batch
    except RuntimeError as error:
        explained = explain_death(error)
        if explained is None:
            raise
        raise explained from error


def with_remedy(error: BadVideoError) -> BadVideoError:
    """Return the error of a video that ends a command, with the option that skips the video."""
    if isinstance(error, OtherFlowError):
        return error
    return BadVideoError(error.path, f"{error.reason}; --on-bad-video skip goes on without it")


def check_dataset(dataset: VideoDataset, prep: Preprocessing) -> None:
    """Run `check_source` on the first video of a data set that can be opened."""
    for record in dataset.records:
        try:
            with open_video(record.path, prefer_flow=prep.channels == "flow") as video:
                source = video
        except BadVideoError:
            continue
        check_source(record.path, source, prep)
        return


def with_scale_of(dataset: VideoDataset, prep: Preprocessing) -> Preprocessing:
    """Return the preprocessing with the scale and method of a flow data set.

    It is unchanged for an RGB network. The first video decides; training stops at one of another
    scale or method.
    """
    for record in dataset.records if prep.channels == "flow" else ():
        try:
            with open_video(record.path, prefer_flow=True) as video:
                flow = video.flow
        except BadVideoError:
            continue
        if flow is None:
            return prep
        method = flow.method or prep.flow_method
        return replace(prep, flow_short_side=flow.short_side, flow_method=method)
    return prep
