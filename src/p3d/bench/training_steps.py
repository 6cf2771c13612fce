"""Training steps to time: the plain network, and this one with each policy of normalization."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from p3d.bench.turns import Candidate
from p3d.model.config import P3DConfig
from p3d.model.network import P3D
from p3d.model.plain import plain_twin
from p3d.system.device import Precision, autocast
from p3d.training.network import compile_network, prepare_for_training
from p3d.training.recipes import UCF101, NormPolicy

_NORMS: dict[str, NormPolicy] = {
    "": "train",
    ", all BN frozen but the first": "freeze-but-first",
    ", all BN frozen": "freeze-all",
}


def training_steps(
    config: P3DConfig, precisions: Sequence[Precision], clips: Tensor, *, compiled: bool
) -> list[Candidate]:
    """Return training steps without the optimizer, which is the same for all.

    Args:
        config: The network.
        precisions: Arithmetic.
        clips: Float `(N, C, T, H, W)`.
        compiled: Add the steps of `p3d train --compile`.
    """
    device, frames = clips.device, channels_last(clips)
    nets: dict[str, tuple[nn.Module, Tensor]] = {"plain": (plain_twin(config).to(device), clips)}
    for name, norms in _NORMS.items():
        nets[f"p3d{name}"] = _network(config, norms, device), frames
    for name, norms in _NORMS.items() if compiled else ():
        net = compile_network(_network(config, norms, device), device)
        nets[f"p3d compiled{name}"] = net, frames
    labels = torch.arange(len(clips), device=device)
    return [
        Candidate(name, precision, _step(net, batch, labels, precision), len(clips))
        for precision in precisions
        for name, (net, batch) in nets.items()
    ]


def _network(config: P3DConfig, norms: NormPolicy, device: torch.device) -> P3D:
    model = P3D(config)
    recipe = replace(UCF101, norms=norms)
    prepare_for_training(model, recipe, sync_norms=False, checkpoint_activations=False)
    return model.to(device)


def _step(
    net: nn.Module,
    clips: Tensor,
    labels: Tensor,
    precision: Precision,
) -> Callable[[], None]:
    def call() -> None:
        net.zero_grad(set_to_none=True)
        with autocast(clips.device, precision):
            logits = net(clips)
        F.cross_entropy(logits.float(), labels).backward()

    return call


def channels_last(clips: Tensor) -> Tensor:
    """Copy clips to the memory order of `normalize`, which is that of decoded frames."""
    return clips.permute(0, 2, 3, 4, 1).contiguous().permute(0, 4, 1, 2, 3)
