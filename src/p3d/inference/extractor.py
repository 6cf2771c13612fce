"""Computing the features of videos, each by itself."""

from __future__ import annotations

from collections import deque
from collections.abc import Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from p3d.data.clips import EvalClips, Sample, Unread
from p3d.data.dataset import VideoDataset
from p3d.data.transforms import horizontal_flip
from p3d.data.workers import Videos
from p3d.inference.feature_file import FeatureFolder
from p3d.inference.feature_options import FeaturesOptions
from p3d.inference.scorer import Scorer
from p3d.model.network import P3D
from p3d.system.distributed import Group
from p3d.system.progress import ProgressBar


class Extractor:
    """Computes the features of videos.

    Args:
        options: Layer, clips and device options.
        model: The network.
        device: Where to compute.
    """

    def __init__(self, options: FeaturesOptions, model: P3D, device: torch.device) -> None:
        self._options = options
        self._scorer = Scorer(
            model,
            device,
            options.compute.precision,
            layer=options.stage,
            compiled=options.compute.compile,
            batch_size=options.batch_size,
        )

    def extract(
        self, dataset: VideoDataset, folder: FeatureFolder, files: list[str], group: Group
    ) -> list[str]:
        """Compute and write the features of all videos; each rank computes its shard.

        Returns:
            One line for each video that could not be read, on all ranks.

        Raises:
            BadVideoError: A video cannot be read and the policy is "error".
        """
        read = EvalClips(Videos(dataset), self._scorer.preprocessing, self._options.clips)
        shard = range(len(dataset.records))[group.rank :: group.world_size]
        bad: list[str] = []
        title = "computing features"
        with ProgressBar(len(shard), title, leave=False, shown=group.is_main) as bar:
            for video in _read_ahead(read, shard, self._options.workers):
                if isinstance(video, Sample):
                    folder.add(files[video.video], self(video.clips))
                elif self._options.on_bad_video == "error":
                    raise video.error
                else:
                    bad.append(str(video.error))
                bar.advance()
        return [line for lines in group.gather(bad) for line in lines]

    def __call__(self, clips: Tensor) -> NDArray[np.float32]:
        """Return the features of a video.

        Args:
            clips: uint8 `(num_clips, T, H, W, C)`.

        Returns:
            float32 `(...)`, or `(num_clips, ...)` if the options say `per_clip`.
        """
        values = self._read(clips)
        if self._options.mirror:
            mirrored = self._read(horizontal_flip(clips.flatten(0, 1)).view_as(clips))
            # A volume is mirrored back, so that each value is averaged with that of its place.
            values = (values + (mirrored.flip(-1) if mirrored.dim() == 5 else mirrored)) / 2
        if self._options.pool:
            values = values.mean((2, 3, 4))
        if not self._options.per_clip:
            values = values.mean(0)
        return values.numpy()

    def _read(self, clips: Tensor) -> Tensor:
        outputs = self._scorer(clips)
        return outputs.softmax(-1) if self._options.stage is None else outputs


def _read_ahead(clips: EvalClips, rows: Sequence[int], threads: int) -> Iterator[Sample | Unread]:
    """Yield the clips of videos in order, while threads read the next ones."""
    if not threads:
        yield from map(clips.__getitem__, rows)
        return
    with ThreadPoolExecutor(threads) as pool:
        waiting: deque[Future[Sample | Unread]] = deque()
        for row in rows:
            waiting.append(pool.submit(clips.__getitem__, row))
            if len(waiting) > threads:
                yield waiting.popleft().result()
        for future in waiting:
            yield future.result()
