"""Comparison of an exported file with PyTorch."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from p3d.inference.backends.names import relative_error
from p3d.inference.export_spec import MIN_FREE_FRAMES, MIN_FREE_SIZE, noise_clip
from p3d.inference.exported import ExportedNetwork
from p3d.inference.scorer import Scorer
from p3d.model.network import P3D
from p3d.system.device import Precision

_SEEDS = (1, 2, 3)


@dataclass(frozen=True)
class Verification:
    """Errors of an exported file, in units of PyTorch's largest logit in fp32.

    Attributes:
        noise: The worst of clips of noise, of several lengths and sizes where these are free.
        videos: The worst of clips of real videos, or None without any.
        same_class: Part of all clips with the same most likely class.
    """

    noise: float
    videos: float | None
    same_class: float

    @property
    def worst(self) -> float:
        """The larger of both errors."""
        return max(self.noise, self.videos or 0.0)


def verify(
    model: P3D,
    file: ExportedNetwork,
    device: torch.device,
    precision: Precision,
    real_clips: Sequence[Tensor] = (),
) -> Verification:
    """Compare the logits of a file with PyTorch's in fp32.

    Args:
        model: The network that was exported.
        file: The exported file.
        device: Where both are computed.
        precision: Arithmetic of the file.
        real_clips: uint8 `(N, T, H, W, C)`, of a shape that the file takes.
    """
    # A free batch is filled: p3d's own batches of one would show nothing about larger ones.
    batch = file.spec.batch or len(_SEEDS)
    theirs, ours = Scorer(file, device, precision, batch_size=batch), Scorer(model, device)
    noise, videos = list[float](), list[float]()
    same = list[bool]()
    for clips, errors in [
        *((clips, noise) for clips in _noise(model, file)),
        *((clips, videos) for clips in real_clips),
    ]:
        expected, found = ours(clips), theirs(clips)
        if file.spec.with_preprocessing:  # logits are known up to a constant
            expected, found = expected.softmax(-1), found.softmax(-1)
        errors.append(relative_error(found, expected))
        same += (found.argmax(-1) == expected.argmax(-1)).tolist()
    return Verification(max(noise), max(videos, default=None), sum(same) / len(same))


def _noise(model: P3D, file: ExportedNetwork) -> list[Tensor]:
    """Return batches of noise: of the usual shape, and of others where the file takes them.

    Where height and width are free, they differ.
    """
    spec, prep = file.spec, model.preprocessing
    frames = spec.frames or max(prep.num_frames, MIN_FREE_FRAMES)
    size = spec.size or max(prep.crop, MIN_FREE_SIZE)
    usual = [noise_clip(model.config, frames, size, seed) for seed in _SEEDS]
    batches = [torch.cat(usual)]
    # Odd lengths and sizes, which pooling rounds.
    if spec.frames is None:
        batches.append(noise_clip(model.config, frames + 3, size, seed=4))
    if spec.size is None:
        batches.append(noise_clip(model.config, frames, size + 7, seed=4)[:, :, :, :size])
    return batches
