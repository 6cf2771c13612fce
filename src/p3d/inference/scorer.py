"""A network made ready to score clips, for validation, evaluation and prediction alike."""

from __future__ import annotations

import copy

import torch
from torch import Tensor

from p3d.errors import UserError
from p3d.model.network import P3D, fold_norms
from p3d.preprocessing import normalize
from p3d.system.device import DTYPES, Precision, set_precision


class Scorer:
    """Maps uint8 clips to class probabilities.

    The network is copied, its batch normalisations are folded into the convolutions and its weights
    are cast once to the precision asked for. Probabilities are computed in float32.

    Args:
        model: The network; it is left as it is.
        device: Where to compute.
        precision: "fp32", "tf32", "bf16" or "fp16".
        compiled: Compile the network with `torch.compile`: slow to start, then faster.
        batch_size: Clips on the device at once.
        strict: Refuse scores that are not finite; else they come out as NaN.

    Raises:
        UserError: The device does not have the precision.
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
        """Score clips uint8 `(N, T, H, W, C)`; float32 `(N, num_classes)`, rows summing to 1.

        Raises:
            UserError: A score is not a number, as where fp16 overflows, and that is not allowed.
        """
        logits = torch.cat([self._logits(part) for part in clips.split(self.batch_size)])
        finite = logits.isfinite().all(1)
        if self._strict and not finite.all():
            remedy = "use --precision fp32 or bf16, or " if self.dtype == torch.float16 else ""
            raise UserError(
                f"the network's scores are not finite in {str(self.dtype).removeprefix('torch.')}; "
                f"{remedy}check the weights"
            )
        return logits.softmax(1).where(finite[:, None], torch.nan)

    def _logits(self, clips: Tensor) -> Tensor:
        pixels = normalize(clips.to(self.device, non_blocking=True), self.preprocessing)
        logits: Tensor = self._network(pixels.to(self.dtype))
        return logits.float().cpu()
