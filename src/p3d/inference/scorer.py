"""A network prepared for inference, for validation, evaluation and prediction."""

from __future__ import annotations

from typing import Protocol

import torch
from torch import Tensor

from p3d.errors import UserError
from p3d.inference.backends.compiled_network import CompiledNetwork
from p3d.inference.backends.torch_network import EagerNetwork
from p3d.inference.exported import ExportedNetwork
from p3d.model.config import Layer
from p3d.model.network import P3D
from p3d.preprocessing import Preprocessing
from p3d.system.device import Precision, set_precision

_FILLING_PIXELS, _MAX_BATCH = 16 * 16 * 160 * 160, 256
"""Pixels and clips of a batch that fills an accelerator."""
_CACHED_PIXELS, _MAX_CPU_BATCH = 800_000, 16
"""The same, whose activations stay in a CPU's cache; see benchmarks/backends.md."""
_CACHED_PIXELS_OF_MANY = 1_650_000
"""The same for a compiled network in bf16."""


class Network(Protocol):
    """A network on a device that maps uint8 clips `(N, T, H, W, C)` to float32 on the CPU."""

    device: torch.device
    dtype: torch.dtype

    def __call__(self, clips: Tensor) -> Tensor:
        """Return the logits or features of clips."""


def best_batch(
    device: torch.device, preprocessing: Preprocessing, *, many_in_bf16: bool = False
) -> int:
    """Return the clips of a batch that suits a device.

    A CPU is fastest while the activations stay in its cache: with a single clip of 16x160x160, and
    with several smaller ones, which do not keep all cores busy alone. A compiled network in bf16
    has smaller activations, and is faster with four clips of 16x160x160, which share its weights.

    Args:
        device: Where to compute.
        preprocessing: Length and size of a clip.
        many_in_bf16: Whether a compiled network computes many clips in bf16. A batch that is not
            full takes as long as a full one, which does not pay for a few clips.
    """
    pixels, most = _FILLING_PIXELS, _MAX_BATCH
    if device.type == "cpu":
        pixels = _CACHED_PIXELS_OF_MANY if many_in_bf16 else _CACHED_PIXELS
        most = _MAX_CPU_BATCH
    clip = preprocessing.num_frames * preprocessing.crop**2
    return min(most, max(1, pixels // clip))


class Scorer:
    """A network that maps uint8 clips to logits or to the features of a layer.

    The network is copied, its batch normalizations are folded into the convolutions and its weights
    are cast once to the given precision.

    Args:
        model: The network, which is not modified, or a file of `p3d export`.
        device: Where to compute.
        precision: "fp32", "tf32", "bf16" or "fp16"; a file has its own.
        compiled: Compile the network with `torch.compile`: slow to start, then faster.
        layer: Return the features of this layer in place of logits, see `P3D.features`.
        batch_size: Clips on the device at once; None for what suits the device.
        strict: Raise if an output is not finite; otherwise return it.

    Attributes:
        batch_size: Clips on the device at once.
        precision: Arithmetic of the network.
        temperature: What logits are to be divided by where they become the probabilities of an
            answer, see `p3d calibrate`. The logits that a call returns are not divided.

    Raises:
        UserError: The device does not support the precision, or the file cannot be run.
    """

    def __init__(
        self,
        model: P3D | ExportedNetwork,
        device: torch.device,
        precision: Precision = "fp32",
        *,
        layer: Layer | None = None,
        compiled: bool = False,
        batch_size: int | None = None,
        strict: bool = True,
    ) -> None:
        set_precision(device, precision)
        self.preprocessing = model.preprocessing
        self.num_classes = model.config.num_classes
        self.temperature = model.calibration.get("temperature", 1.0)
        self.device = device
        self.precision = precision if isinstance(model, P3D) else model.precision(precision)
        self.batch_size = batch_size or best_batch(device, model.preprocessing)
        self._strict = strict
        self._network: Network
        # Compiled for one shape, or a file of a fixed batch: a smaller batch is filled up.
        self._fill = compiled
        if isinstance(model, P3D):
            kind = CompiledNetwork if compiled else EagerNetwork
            self._network = kind(model, device, precision, layer)
        else:
            self._connect(model, precision, batch_size, layer)

    def _connect(
        self,
        file: ExportedNetwork,
        precision: Precision,
        batch_size: int | None,
        layer: Layer | None,
    ) -> None:
        fixed = file.spec.batch
        if layer is not None:
            raise UserError(f"{file.path}: an exported file gives logits only; use the weights")
        if fixed is not None and batch_size not in (None, fixed):
            raise UserError(
                f"{file.path}: takes batches of {fixed}; omit --batch-size, or export the weights "
                f"with --batch {batch_size}"
            )
        self.batch_size, self._fill = fixed or self.batch_size, fixed is not None
        self._network = file.connect(self.device, precision)

    @torch.inference_mode()
    def __call__(self, clips: Tensor) -> Tensor:
        """Return the logits or features of clips.

        Args:
            clips: uint8 `(N, T, H, W, C)`.

        Returns:
            float32 on the CPU: logits `(N, num_classes)`, or features as `P3D.features` returns.

        Raises:
            UserError: A value is not finite (fp16 overflow, for example) and `strict` is set, or a
                file does not take clips of this size.
        """
        outputs = torch.cat([self._batch(part) for part in clips.split(self.batch_size)])
        if self._strict and not outputs.isfinite().all():
            dtype = self._network.dtype
            remedy = "use --precision fp32 or bf16, or " if dtype == torch.float16 else ""
            raise UserError(
                "the network's outputs are not finite in "
                f"{str(dtype).removeprefix('torch.')}; {remedy}check the weights"
            )
        return outputs

    def _batch(self, clips: Tensor) -> Tensor:
        count = len(clips)
        if self._fill and 0 < count < self.batch_size:
            clips = torch.cat([clips, clips[-1:].expand(self.batch_size - count, *clips.shape[1:])])
        return self._network(clips)[:count]


def mean_probabilities(logits: Tensor) -> Tensor:
    """Return the class probabilities of videos: the mean of their clips' softmax scores.

    Args:
        logits: float `(..., num_clips, num_classes)`.

    Returns:
        float `(..., num_classes)`; NaN for a video with a logit that is not finite.
    """
    finite = logits.isfinite().all(-1, keepdim=True)
    return logits.softmax(-1).where(finite, torch.nan).mean(-2)
