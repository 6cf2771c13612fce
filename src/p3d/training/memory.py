"""What the backward pass of a training step keeps in memory, counted without computing anything.

The network runs on PyTorch's "meta" device, which computes shapes and nothing else, and the tensors
that autograd keeps are added up.
"""

from __future__ import annotations

from collections import defaultdict
from typing import Any

import torch
from torch import Tensor, nn

from p3d.model.network import CHANNELS, P3D, Bottleneck
from p3d.system.device import DTYPES, Precision
from p3d.training.optim import freeze
from p3d.training.recipes import Recipe
from p3d.weights.metadata import skeleton

Storages = dict[int, torch.UntypedStorage]


class _Ledger:
    """Which memory is kept, by the block it was kept in; None stands for outside of any."""

    def __init__(self) -> None:
        self.kept: dict[nn.Module | None, Storages] = defaultdict(dict)
        self.inputs: Storages = {}
        self._block: nn.Module | None = None

    def note(self, tensor: Tensor) -> Tensor:
        # Held on to, so that no other storage can take its number.
        self.kept[self._block][_number(tensor)] = tensor.untyped_storage()
        return tensor

    def enter(self, block: nn.Module, inputs: tuple[Any, ...]) -> None:
        self._block = block
        self.inputs[_number(inputs[0])] = inputs[0].untyped_storage()

    def leave(self, *_: object) -> None:
        self._block = None


def activation_bytes(model: P3D, recipe: Recipe, precision: Precision) -> int:
    """Count what the backward pass of one batch keeps, weights and pixels aside.

    In mixed precision the copies of weights that are cast for the convolutions count, since they
    are kept as long. A compiled network keeps less. With activation checkpointing
    it is the inputs of all blocks, and all of one block.

    Args:
        model: The network; only its configuration and preprocessing are looked at.
        recipe: Its batch size, and what it freezes, are used.
        precision: Arithmetic of the forward pass.

    Raises:
        UserError: The clips are too small for the network.
    """
    network = skeleton(model.config)
    freeze(network, recipe)
    network.train()
    dtype, prep = DTYPES[precision], model.preprocessing
    shape = (recipe.batch_size, prep.num_frames, prep.crop, prep.crop)
    clips = torch.empty(*shape, CHANNELS[model.config.modality], device="meta")
    others = [clips, *network.state_dict().values()]
    # The meta device knows no autocast: what that would cast is cast here, and counts as a copy.
    ledger = _Ledger()
    for module in network.modules():
        if isinstance(module, nn.Conv2d | nn.Linear):
            module.to(dtype)
        if isinstance(module, Bottleneck):
            module.register_forward_pre_hook(ledger.enter)
            module.register_forward_hook(ledger.leave)
    ignored = {_number(tensor) for tensor in others}
    with torch.autograd.graph.saved_tensors_hooks(ledger.note, lambda tensor: tensor):
        network(clips.permute(0, 4, 1, 2, 3).to(dtype))
    if not model.checkpoint_activations:
        return _bytes(ledger.kept.values(), ignored)
    always = [ledger.kept.pop(None), ledger.inputs]
    counted = ignored.union(*always)
    return _bytes(always, ignored) + max(_bytes([part], counted) for part in ledger.kept.values())


def _bytes(parts: Any, ignored: set[int]) -> int:
    together: Storages = {}
    for part in parts:
        together |= part
    return sum(storage.nbytes() for number, storage in together.items() if number not in ignored)


def _number(tensor: Tensor) -> int:
    """A number that all views of the same memory share (on the meta device none has an address)."""
    return int(tensor.untyped_storage()._cdata)
