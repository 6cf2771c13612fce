"""Memory of a training step, counted without computing the network.

For its activations, the network runs on PyTorch's "meta" device, which computes only shapes, and
the sizes of the tensors that autograd saves are added up.
"""

from __future__ import annotations

from collections import defaultdict
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from p3d.model.blocks import Bottleneck
from p3d.model.config import CHANNELS
from p3d.model.modes import planned_for
from p3d.model.network import P3D
from p3d.system.device import DTYPES, Precision
from p3d.training.network import prepare_for_training
from p3d.training.recipes import Recipe
from p3d.weights.metadata import skeleton

Storages = dict[int, torch.UntypedStorage]


@dataclass(frozen=True)
class Memory:
    """Bytes that a step needs on the device, without the workspace of convolutions.

    Attributes:
        weights: Parameters and statistics of batch normalization, and their averages.
        gradients: Gradients of the trained parameters.
        momentum: Momentum of the trained parameters.
        clips: A batch of clips as bytes and as float32.
        activations: Tensors saved for the backward pass, with cast weights in mixed precision.
    """

    weights: int
    gradients: int
    momentum: int
    clips: int
    activations: int

    @property
    def total(self) -> int:
        """Sum of all parts."""
        return self.weights + self.gradients + self.momentum + self.clips + self.activations


def step_memory(model: P3D, recipe: Recipe, precision: Precision, device: torch.device) -> Memory:
    """Return the memory of a step with batches of a recipe.

    Args:
        model: The network, frozen as the recipe says; on any device.
        recipe: How it will be trained.
        precision: Arithmetic of the forward pass.
        device: Where the network will be trained.

    Raises:
        UserError: The clips are too small for the network.
    """
    trained, prep = trained_bytes(model), model.preprocessing
    pixels = recipe.batch_size * prep.num_frames * prep.crop**2 * CHANNELS[model.config.modality]
    return Memory(
        weight_bytes(model) * (2 if recipe.average_epochs else 1),
        trained,
        trained if recipe.momentum else 0,
        5 * pixels,
        activation_bytes(model, recipe, precision, device),
    )


def weight_bytes(model: P3D) -> int:
    """Return the bytes of a network's parameters and statistics."""
    return sum(tensor.nbytes for tensor in model.state_dict().values())


def trained_bytes(model: P3D) -> int:
    """Return the bytes of the parameters that are trained."""
    return sum(p.nbytes for p in model.parameters() if p.requires_grad)


class _SavedTensors:
    """Storages that autograd saves, by the block that saves them (None outside of all blocks)."""

    def __init__(self) -> None:
        self.saved: dict[nn.Module | None, Storages] = defaultdict(dict)
        self.inputs: Storages = {}
        self._block: nn.Module | None = None

    def pack(self, tensor: Tensor) -> Tensor:
        # The reference keeps the address from being reused.
        self.saved[self._block][_address(tensor)] = tensor.untyped_storage()
        return tensor

    def enter(self, block: nn.Module, inputs: tuple[Any, ...]) -> None:
        self._block = block
        self.inputs[_address(inputs[0])] = inputs[0].untyped_storage()

    def leave(self, *_: object) -> None:
        self._block = None


def activation_bytes(model: P3D, recipe: Recipe, precision: Precision, device: torch.device) -> int:
    """Return the bytes that one batch saves for the backward pass, without weights and pixels.

    In mixed precision this includes the cast copies of the weights. A compiled network saves less,
    on a CPU too: there `--compile` takes more memory only for PyTorch's compiler itself.
    With activation checkpointing the result is the inputs of all blocks plus the largest block.

    Args:
        model: The network; only its configuration and preprocessing are used.
        recipe: For its batch size and frozen layers.
        precision: Arithmetic of the forward pass.
        device: Where the network will be trained.

    Raises:
        UserError: The clips are too small for the network.
    """
    network = skeleton(model.config)
    prepare_for_training(network, recipe, sync_norms=False, checkpoint_activations=False)
    dtype, prep = DTYPES[precision], model.preprocessing
    shape = (recipe.batch_size, prep.num_frames, prep.crop, prep.crop)
    clips = torch.empty(*shape, CHANNELS[model.config.modality], device="meta")
    others = [clips, *network.state_dict().values()]
    # The meta device has no autocast, so the weights are cast here and count as copies.
    tensors = _SavedTensors()
    for module in network.modules():
        if isinstance(module, nn.Conv2d | nn.Linear):
            module.to(dtype)
        if isinstance(module, nn.Conv2d):
            module.register_forward_hook(_channels_last)
        if isinstance(module, Bottleneck):
            module.register_forward_pre_hook(tensors.enter)
            module.register_forward_hook(tensors.leave)
    ignored = {_address(tensor) for tensor in others}
    hooks = torch.autograd.graph.saved_tensors_hooks(tensors.pack, lambda tensor: tensor)
    with hooks, planned_for(device):
        network(clips.permute(0, 4, 1, 2, 3).to(dtype))
    if not model.checkpoint_activations:
        return _bytes(tensors.saved.values(), ignored)
    always = [tensors.saved.pop(None), tensors.inputs]
    counted = ignored.union(*always)
    return _bytes(always, ignored) + max(_bytes([part], counted) for part in tensors.saved.values())


def _channels_last(_: nn.Module, __: object, out: Tensor) -> Tensor:
    """Give a convolution's result the memory format that it has on every other device."""
    return out.contiguous(memory_format=torch.channels_last)


def _bytes(parts: Any, ignored: set[int]) -> int:
    together: Storages = {}
    for part in parts:
        together |= part
    return sum(storage.nbytes() for number, storage in together.items() if number not in ignored)


def _address(tensor: Tensor) -> int:
    """Return a number that identifies the memory of a tensor (data_ptr is 0 on the meta device)."""
    return int(tensor.untyped_storage()._cdata)
