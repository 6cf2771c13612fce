"""A network ready for inference, as validation, evaluation and prediction use it."""

from __future__ import annotations

import copy

import torch
from torch import Tensor

from p3d.errors import UserError
from p3d.model.network import P3D, fold_norms
from p3d.preprocessing import normalize
from p3d.system.device import DTYPES, Precision, set_precision


class Scorer:
    """Map uint8 clips to logits.

    The network is copied, its batch normalizations are folded into the convolutions and its weights
    are cast once to the given precision.

    Args:
        model: The network; not modified.
        device: Where to compute.
        precision: "fp32", "tf32", "bf16" or "fp16".
        compiled: Compile the network with `torch.compile`: slow to start, then faster.
        batch_size: Clips on the device at once.
        strict: Raise if a logit is not finite; otherwise return it.

    Raises:
        UserError: The device does not support the precision.
    """

    def __init__(
        self,
        model: P3D,
        device: torch.device,
        precision: Precision = "fp32",
        *,
        compiled: bool = False,
        batch_size: int = 16,
        strict: bool = True,
    ) -> None:
        set_precision(device, precision)
        self.preprocessing = model.preprocessing
        self.num_classes = model.config.num_classes
        self.device = device
        self.dtype = DTYPES[precision]
        self.batch_size = batch_size
        self._strict = strict
        network = fold_norms(copy.deepcopy(model)).to(device, self.dtype).requires_grad_(False)
        self._network = torch.compile(network) if compiled else network

    @torch.inference_mode()
    def __call__(self, clips: Tensor) -> Tensor:
        """Return the logits of clips, float32 `(N, num_classes)`, on the CPU.

        Args:
            clips: uint8 `(N, T, H, W, C)`.

        Raises:
            UserError: A logit is not finite (fp16 overflow, for example) and `strict` is set.
        """
        outputs = torch.cat([self._forward(part) for part in clips.split(self.batch_size)])
        if self._strict and not outputs.isfinite().all():
            remedy = "use --precision fp32 or bf16, or " if self.dtype == torch.float16 else ""
            raise UserError(
                f"the network's scores are not finite in {str(self.dtype).removeprefix('torch.')}; "
                f"{remedy}check the weights"
            )
        return outputs

    def _forward(self, clips: Tensor) -> Tensor:
        pixels = normalize(clips.to(self.device, non_blocking=True), self.preprocessing)
        outputs: Tensor = self._network(pixels.to(self.dtype))
        return outputs.float().cpu()


def mean_probabilities(logits: Tensor) -> Tensor:
    """Return the class probabilities of videos: the mean of their clips' softmax scores.

    Args:
        logits: float `(..., num_clips, num_classes)`.

    Returns:
        float `(..., num_classes)`; NaN for a video with a logit that is not finite.
    """
    finite = logits.isfinite().all(-1, keepdim=True)
    return logits.softmax(-1).where(finite, torch.nan).mean(-2)
