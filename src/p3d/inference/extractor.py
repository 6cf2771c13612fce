"""Computing the features of videos, each by itself."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from p3d.data.clips import check_source, read_eval_clips
from p3d.data.dataset import VideoRecord
from p3d.data.track import open_record
from p3d.data.transforms import horizontal_flip
from p3d.errors import OtherFlowError, UserError
from p3d.inference.feature_options import FeaturesOptions
from p3d.inference.scorer import Scorer
from p3d.inference.unchanged import leave_out_notes, load_unchanged
from p3d.model.network import P3D
from p3d.system.device import count_devices, resolve_device, set_up_cpu
from p3d.weights.loading import load_model


@dataclass(frozen=True)
class FeatureWork:
    """What the workers of `p3d features` are started with, see `p3d.archive.work.Work`.

    Attributes:
        options: Layer, clips and device options.
        weights: The weight file.
        sha256: Its SHA-256.
        first: Number of the first worker's device.
    """

    options: FeaturesOptions
    weights: Path
    sha256: str
    first: int = 0

    def start(self, number: int) -> Extractor:
        """See `p3d.archive.work.Work`."""
        compute = self.options.compute
        leave_out_notes()
        set_up_cpu(compute.threads)
        count = count_devices(resolve_device(compute.device))
        device = resolve_device(compute.device, self.first + number % count)
        model = load_unchanged(self.weights, self.sha256, load_model)
        return Extractor(self.options, model, device)


class Extractor:
    """Computes the features of videos, in two stages, see `p3d.archive.work.Stages`.

    The clips of a video are in batches of their own: what else is computed changes no bit.

    Args:
        options: Layer, clips and device options.
        model: The network.
        device: Where to compute.
    """

    def __init__(self, options: FeaturesOptions, model: P3D, device: torch.device) -> None:
        self._options = options
        self.threads = options.workers
        self._scorer = Scorer(
            model,
            device,
            options.compute.precision,
            layer=options.stage,
            compiled=options.compute.compile,
            batch_size=options.batch_size,
        )

    def read(self, source: VideoRecord) -> Tensor:
        """Return the clips of a video: uint8 `(num_clips, T, H, W, C)`."""
        prep = self._scorer.preprocessing
        with open_record(source, prefer_flow=prep.channels == "flow") as video:
            try:
                check_source(source.path, video, prep)
            except OtherFlowError as error:  # ends the run, whatever --on-bad-video says
                raise UserError(str(error)) from error
            return read_eval_clips(video, prep, self._options.clips, segment=source.segment)

    def compute(self, source: VideoRecord, content: Tensor) -> NDArray[np.float32]:  # noqa: ARG002
        """Return the features of a video.

        Args:
            source: The video.
            content: Its clips, uint8 `(num_clips, T, H, W, C)`.

        Returns:
            float32 `(...)`, or `(num_clips, ...)` if the options say `per_clip`.
        """
        values = self._features(content)
        if self._options.mirror:
            mirrored = horizontal_flip(content.flatten(0, 1)).view_as(content)
            volume = self._features(mirrored)
            # A volume is mirrored back, so that each value is averaged with that of its place.
            values = (values + (volume.flip(-1) if volume.dim() == 5 else volume)) / 2
        if self._options.pool:
            values = values.mean((2, 3, 4))
        if not self._options.per_clip:
            values = values.mean(0)
        return values.numpy()

    def _features(self, clips: Tensor) -> Tensor:
        outputs = self._scorer(clips)
        return outputs.softmax(-1) if self._options.stage is None else outputs
