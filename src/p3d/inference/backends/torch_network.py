"""The network in PyTorch, eager or compiled on first use."""

from __future__ import annotations

import copy
import time
from collections.abc import Callable
from contextlib import AbstractContextManager
from functools import partial

import torch
from torch import Tensor

from p3d.errors import UserError
from p3d.inference.backends.names import TOLERANCE, relative_error
from p3d.model.network import P3D, Layer, fold_norms
from p3d.preprocessing import normalize
from p3d.system.compiler import find_compiler, record_seconds, use_cache
from p3d.system.device import DTYPES, Precision


def folded_copy(model: P3D) -> P3D:
    """Return a copy for inference, with its batch normalizations folded."""
    return fold_norms(copy.deepcopy(model)).requires_grad_(False)


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
        network = folded_copy(model).to(device, self.dtype)
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


class CompiledNetwork(EagerNetwork):
    """A network that `torch.compile` compiles for each new shape of the clips.

    The first clip of each shape is also computed eagerly, and must give the same.

    Raises:
        UserError: The machine has no compiler.
    """

    def __init__(
        self, model: P3D, device: torch.device, precision: Precision, layer: Layer | None = None
    ) -> None:
        super().__init__(model, device, precision, layer)
        if device.type == "cpu" and find_compiler() is None:
            raise UserError(
                "compiling for the CPU needs a C++ compiler; install g++ or clang, or use "
                "--backend eager"
            )
        use_cache()
        self._key = compile_key(model, device, precision)
        self._compiled = torch.compile(self._outputs, dynamic=False)
        self._shapes: set[torch.Size] = set()

    def __call__(self, clips: Tensor) -> Tensor:
        """Map uint8 `(N, T, H, W, C)` to float32 on the CPU."""
        if clips.shape not in self._shapes:
            return self._first(clips)
        return self._compiled(self._on_device(clips)).cpu()

    def _on_device(self, clips: Tensor) -> Tensor:
        """Return a tensor that was created in inference mode; others would be compiled again."""
        clips = super()._on_device(clips)
        return clips if clips.is_inference() else clips.clone()

    def _first(self, clips: Tensor) -> Tensor:
        """Compile for the clips' shape, and check the result.

        Raises:
            UserError: The compiled network gives something else.
        """
        started = time.perf_counter()
        with weights_as_constants():
            outputs = self._compiled(self._on_device(clips)).cpu()
        record_seconds(self._key, time.perf_counter() - started)
        expected = super().__call__(clips[:1])
        error = relative_error(outputs[:1], expected)
        # Not finite is for the caller to report.
        if expected.isfinite().all() and error > TOLERANCE[self._precision]:
            raise UserError(
                f"the compiled network differs from PyTorch's by {error:.1e} of its largest "
                f"output, allowed are {TOLERANCE[self._precision]:.0e}; use --backend eager"
            )
        self._shapes.add(clips.shape)
        return outputs


def weights_as_constants() -> AbstractContextManager[None, bool | None]:
    """Let `torch.compile` give the weights the memory layout that the convolutions want.

    Must be active while the network is traced. As an option of `torch.compile` it has no effect:
    by then the weights are inputs of the graph, and only constants are frozen.
    """
    from torch._inductor import config  # takes a second to import

    patch: AbstractContextManager[None, bool | None] = config.patch(freezing=True)
    return patch


def compile_key(model: P3D, device: torch.device, precision: Precision) -> str:
    """Return what the time to compile a network depends on."""
    config, prep = model.config, model.preprocessing
    return (
        f"{config.name} {config.variant} {config.wiring} {config.modality} {device.type} "
        f"{precision} {prep.num_frames}x{prep.crop} torch {torch.__version__}"
    )
