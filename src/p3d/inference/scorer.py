"""A network prepared for inference, for validation, evaluation and prediction."""

from __future__ import annotations

import copy
from collections.abc import Callable
from functools import partial

import torch
from torch import Tensor

from p3d.errors import UserError
from p3d.model.network import P3D, Layer, fold_norms
from p3d.preprocessing import normalize
from p3d.system.device import DTYPES, Precision, set_precision


class Scorer:
    """A network that maps uint8 clips to logits or to the features of a layer.

    The network is copied, its batch normalizations are folded into the convolutions and its weights
    are cast once to the given precision.

    Args:
        model: The network; not modified.
        device: Where to compute.
        precision: "fp32", "tf32", "bf16" or "fp16".
        compiled: Compile the network with `torch.compile`: slow to start, then faster.
        layer: Return the features of this layer in place of logits, see `P3D.features`.
        batch_size: Clips on the device at once.
        strict: Raise if an output is not finite; otherwise return it.

    Attributes:
        temperature: What logits are to be divided by where they become the probabilities of an
            answer, see `p3d calibrate`. The logits that a call returns are not divided.

    Raises:
        UserError: The device does not support the precision.
    """

    def __init__(
        self,
        model: P3D,
        device: torch.device,
        precision: Precision = "fp32",
        *,
        layer: Layer | None = None,
        compiled: bool = False,
        batch_size: int = 16,
        strict: bool = True,
    ) -> None:
        set_precision(device, precision)
        self.preprocessing = model.preprocessing
        self.num_classes = model.config.num_classes
        self.temperature = model.calibration.get("temperature", 1.0)
        self.device = device
        self.dtype = DTYPES[precision]
        self.batch_size = batch_size
        self._strict = strict
        network = fold_norms(copy.deepcopy(model)).to(device, self.dtype).requires_grad_(False)
        forward = network if layer is None else partial(network.features, layer=layer)
        self._network: Callable[[Tensor], Tensor] = torch.compile(forward) if compiled else forward

    @torch.inference_mode()
    def __call__(self, clips: Tensor) -> Tensor:
        """Return the logits or features of clips.

        Args:
            clips: uint8 `(N, T, H, W, C)`.

        Returns:
            float32 on the CPU: logits `(N, num_classes)`, or features as `P3D.features` returns.

        Raises:
            UserError: A value is not finite (fp16 overflow, for example) and `strict` is set.
        """
        outputs = torch.cat([self._forward(part) for part in clips.split(self.batch_size)])
        if self._strict and not outputs.isfinite().all():
            remedy = "use --precision fp32 or bf16, or " if self.dtype == torch.float16 else ""
            raise UserError(
                "the network's outputs are not finite in "
                f"{str(self.dtype).removeprefix('torch.')}; {remedy}check the weights"
            )
        return outputs

    def _forward(self, clips: Tensor) -> Tensor:
        pixels = normalize(clips.to(self.device, non_blocking=True), self.preprocessing)
        return self._network(pixels.to(self.dtype)).float().cpu()


def mean_probabilities(logits: Tensor) -> Tensor:
    """Return the class probabilities of videos: the mean of their clips' softmax scores.

    Args:
        logits: float `(..., num_clips, num_classes)`.

    Returns:
        float `(..., num_classes)`; NaN for a video with a logit that is not finite.
    """
    finite = logits.isfinite().all(-1, keepdim=True)
    return logits.softmax(-1).where(finite, torch.nan).mean(-2)
