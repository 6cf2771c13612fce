"""The network in PyTorch."""

from __future__ import annotations

import copy
from collections.abc import Callable
from functools import partial

import torch
from torch import Tensor

from p3d.model.config import Layer
from p3d.model.network import P3D, fold_norms
from p3d.model.paired_stem import PairedStem
from p3d.preprocessing import normalize
from p3d.system.device import DTYPES, Precision


def inference_copy(model: P3D, device_type: str, precision: Precision) -> P3D:
    """Return a copy for inference in a precision, still on the model's device.

    Its batch normalizations are folded, and its stem has the form that suits the device.
    """
    network = fold_norms(copy.deepcopy(model)).requires_grad_(False)
    if (device_type, precision) == ("cpu", "bf16"):
        network.stem = PairedStem(network.stem).requires_grad_(False)
        network.to(memory_format=torch.channels_last)  # type: ignore[call-overload]
    return network.to(DTYPES[precision])


class EagerNetwork:
    """A network in PyTorch that maps uint8 clips to logits or features.

    Args:
        model: The network; not modified.
        device: Where to compute.
        precision: Type of weights and activations.
        layer: Return the features of this layer in place of logits.
    """

    def __init__(
        self, model: P3D, device: torch.device, precision: Precision, layer: Layer | None = None
    ) -> None:
        self.preprocessing = model.preprocessing
        self.device, self.dtype = device, DTYPES[precision]
        self._precision: Precision = precision
        network = inference_copy(model, device.type, precision).to(device)
        self._forward: Callable[[Tensor], Tensor] = (
            network if layer is None else partial(network.features, layer=layer)
        )

    def __call__(self, clips: Tensor) -> Tensor:
        """Map uint8 `(N, T, H, W, C)` to float32 on the CPU."""
        return self._outputs(self._on_device(clips)).cpu()

    def _on_device(self, clips: Tensor) -> Tensor:
        return clips.to(self.device, non_blocking=True)

    def _outputs(self, clips: Tensor) -> Tensor:
        pixels = normalize(clips, self.preprocessing).to(self.dtype)
        return self._forward(pixels).float()
