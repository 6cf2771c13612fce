"""The network compiled by `torch.compile`, on first use."""

from __future__ import annotations

import time
from collections.abc import Callable
from contextlib import AbstractContextManager
from types import FunctionType, MethodType
from typing import Any

import torch
from torch import Tensor

from p3d.errors import UserError
from p3d.inference.backends.names import TOLERANCE, relative_error
from p3d.inference.backends.torch_network import EagerNetwork
from p3d.model.config import Layer
from p3d.model.network import P3D
from p3d.system.compiler import find_compiler, record_seconds, use_cache
from p3d.system.device import Precision

_SKIP_GUARDS: Any = getattr(torch.compiler, "skip_all_guards_unsafe", None)
"""Lets a compiled function not check whether it fits; missing in older versions of PyTorch."""


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
        self._compiled: dict[torch.Size, Callable[[Tensor], Tensor]] = {}

    def __call__(self, clips: Tensor) -> Tensor:
        """Map uint8 `(N, T, H, W, C)` to float32 on the CPU."""
        compiled = self._compiled.get(clips.shape)
        return self._first(clips) if compiled is None else compiled(self._on_device(clips)).cpu()

    def _on_device(self, clips: Tensor) -> Tensor:
        """Return clips on the device.

        With guards, a tensor that was not created in inference mode would be compiled again.
        """
        clips = super()._on_device(clips)
        return clips if _SKIP_GUARDS is not None or clips.is_inference() else clips.clone()

    def _first(self, clips: Tensor) -> Tensor:
        """Compile for the clips' shape, and check the result.

        Raises:
            UserError: The compiled network gives something else.
        """
        started = time.perf_counter()
        compiled = _compile(self._outputs)
        with _for_inference(self.device):
            outputs = compiled(self._on_device(clips)).cpu()
        record_seconds(self._key, time.perf_counter() - started)
        expected = super().__call__(clips[:1])
        error = relative_error(outputs[:1], expected)
        # Not finite is for the caller to report.
        if expected.isfinite().all() and error > TOLERANCE[self._precision]:
            raise UserError(
                f"the compiled network differs from PyTorch's by {error:.1e} of its largest "
                f"output, allowed are {TOLERANCE[self._precision]:.0e}; use --backend eager"
            )
        self._compiled[clips.shape] = compiled
        return outputs


def _compile(method: Callable[[Tensor], Tensor]) -> Callable[[Tensor], Tensor]:
    """Return a method of an object, to be compiled for the shape of its first input.

    PyTorch keeps what it compiles with the code of a function, at most eight results for each; it
    runs whatever comes later without compiling, and says so in a log only. So each result gets a
    code of its own. Since it is used for this shape of this network only, nothing is to be checked
    in each call, which takes longer than a small convolution.
    """
    assert isinstance(method, MethodType)
    function = method.__func__
    assert isinstance(function, FunctionType)
    own = FunctionType(
        function.__code__.replace(),
        function.__globals__,
        function.__name__,
        function.__defaults__,
        function.__closure__,
    )
    options = {} if _SKIP_GUARDS is None else {"guard_filter_fn": _SKIP_GUARDS}
    return torch.compile(
        MethodType(own, method.__self__), dynamic=False, fullgraph=True, options=options
    )


def _for_inference(device: torch.device) -> AbstractContextManager[None, bool | None]:
    """Return a context to compile in, with settings for a network whose weights stay as they are.

    Weights become constants, in the memory layout that the convolutions want. This must be set
    while the network is traced: as an option of `torch.compile` it has no effect, since by then the
    weights are inputs of the graph, and only constants are frozen.

    On the CPU, convolutions are called from C++, where a call takes 10 microseconds less.
    """
    from torch._inductor import config  # takes a second to import

    settings: dict[str, Any] = {"freezing": True}
    # Older versions do not keep such code between runs.
    if device.type == "cpu" and _SKIP_GUARDS is not None:
        settings["cpp_wrapper"] = True
    patch: AbstractContextManager[None, bool | None] = config.patch(settings)
    return patch


def compile_key(model: P3D, device: torch.device, precision: Precision) -> str:
    """Return what the time to compile a network depends on."""
    config, prep = model.config, model.preprocessing
    return (
        f"{config.name} {config.variant} {config.wiring} {config.modality} {device.type} "
        f"{precision} {prep.num_frames}x{prep.crop} torch {torch.__version__}"
    )
