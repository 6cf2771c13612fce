"""Clips as PyTorch data sets, for training loops of one's own.

The clips are those of `p3d train` and `p3d eval`. A batch becomes the network's input by
`p3d.normalize(clips, model.preprocessing)`, on the network's device.
"""

from __future__ import annotations

import torch
from torch import Tensor
from torch.utils.data import Dataset

from p3d.data.clips import EvalClips, Sample, TrainClips, Unread
from p3d.data.dataset import VideoDataset
from p3d.data.loader import check_dataset
from p3d.data.transforms import Augmentation
from p3d.data.workers import Videos
from p3d.errors import UserError
from p3d.preprocessing import Preprocessing


class TrainClipDataset(Dataset[tuple[Tensor, int]]):
    """Random, augmented clips of videos and their labels, as `p3d train` draws them.

    A clip is a function of the seed, the epoch and the index, for any number of workers. Call
    `set_epoch` before each epoch; persistent workers follow it too.

    Items are pairs of a clip, uint8 `(T, H, W, C)`, and its label. Reading one raises
    `BadVideoError` if the video cannot be read; `p3d prepare check` finds such videos beforehand.

    Args:
        dataset: The videos, from `p3d.read_dataset`.
        preprocessing: Size of the clips, and what the network takes: `model.preprocessing`.
        seed: Seed of all draws, >= 0.
        augmentation: How the crop is drawn: "random-resized-crop", "multi-scale-crop" or
            "random-crop".
        flip_probability: Probability of mirroring a clip, 0 to 1; 0 if left and right differ.
        clips_per_video: Clips of each video in an epoch.

    Raises:
        UserError: A number is out of range, or the videos are RGB and the network takes optical
            flow, or vice versa.
    """

    def __init__(
        self,
        dataset: VideoDataset,
        preprocessing: Preprocessing,
        *,
        seed: int = 0,
        augmentation: Augmentation = "random-resized-crop",
        flip_probability: float = 0.5,
        clips_per_video: int = 1,
    ) -> None:
        if clips_per_video < 1 or seed < 0 or not 0 <= flip_probability <= 1:
            raise UserError(
                f"clips_per_video {clips_per_video} must be at least 1, seed {seed} at least 0, "
                f"flip_probability {flip_probability} from 0 to 1"
            )
        check_dataset(dataset, preprocessing)
        videos = Videos(dataset)
        self._clips = TrainClips(
            videos, preprocessing, seed, augmentation, flip_probability, clips_per_video
        )
        self._length = len(videos) * clips_per_video
        # Shared memory, since persistent workers keep their copy of this object.
        self._epoch = torch.zeros((), dtype=torch.int64).share_memory_()

    def set_epoch(self, epoch: int) -> None:
        """Set the epoch, from 0, whose clips are read from now on."""
        self._epoch.fill_(epoch)

    def __len__(self) -> int:
        return self._length

    def __getitem__(self, index: int) -> tuple[Tensor, int]:
        _check_index(index, len(self))
        return _pair(self._clips[int(self._epoch), index])


class EvalClipDataset(Dataset[tuple[Tensor, int]]):
    """Uniformly spaced, center-cropped clips of videos and their labels, as `p3d eval` reads them.

    Items are pairs of the clips of a video and its label. Reading one raises `BadVideoError` if the
    video cannot be read.

    Args:
        dataset: The videos, from `p3d.read_dataset`.
        preprocessing: Size of the clips, and what the network takes: `model.preprocessing`.
        num_clips: Clips of each video, uint8 `(num_clips, T, H, W, C)`. None: the clip in the
            middle, uint8 `(T, H, W, C)`.

    Raises:
        UserError: The number is below 1, or the videos are RGB and the network takes optical flow,
            or vice versa.
    """

    def __init__(
        self, dataset: VideoDataset, preprocessing: Preprocessing, *, num_clips: int | None = None
    ) -> None:
        if num_clips is not None and num_clips < 1:
            raise UserError(f"num_clips is {num_clips}; give 1 or more")
        check_dataset(dataset, preprocessing)
        self._clips = EvalClips(Videos(dataset), preprocessing, num_clips or 1)
        self._is_single = num_clips is None

    def __len__(self) -> int:
        return len(self._clips.videos)

    def __getitem__(self, index: int) -> tuple[Tensor, int]:
        _check_index(index, len(self))
        clips, label = _pair(self._clips[index])
        return (clips[0] if self._is_single else clips), label


def _check_index(index: int, length: int) -> None:
    """Raise the IndexError that ends iteration over a sequence; negative indices are not taken."""
    if not 0 <= index < length:
        raise IndexError(f"index {index} is not in [0, {length})")


def _pair(sample: Sample | Unread) -> tuple[Tensor, int]:
    if isinstance(sample, Unread):
        raise sample.error
    return sample.clips, sample.label
