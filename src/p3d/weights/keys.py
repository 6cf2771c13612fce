"""Keys of state dicts: renaming, inferring the network from them, and the strict check."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence

import torch
from torch import Tensor, nn

from p3d.errors import UserError
from p3d.model.config import BLOCKS, CHANNELS, P3DConfig

_BLOCK = re.compile(r"res([2-5])\.(\d+)\.")
_TORCHVISION_BLOCK = re.compile(r"layer([1-4])\.(\d+)\.(.+)\.(\w+)")

_FLOATS = (torch.float32, torch.float16, torch.bfloat16, torch.float64)
_INTEGERS = (torch.int64, torch.int32, torch.int16, torch.int8, torch.uint8)
MAX_CLASSES = 100_000
"""Upper limit of the number of classes in a file. The largest public sets have some 20,000."""


def rename(key: str, top: Mapping[str, str], parts: Mapping[str, str]) -> str:
    """Translate a key such as "layer2.0.conv1.weight" to ours, "res3.0.reduce.conv.weight".

    Args:
        key: A key in the style of torchvision's ResNets.
        top: Our names for the modules outside the stages.
        parts: Our names for the modules inside a block.

    Returns:
        Our key. Unknown keys stay as they are, so that `check_fit` can report them.
    """
    if match := _TORCHVISION_BLOCK.fullmatch(key):
        stage, index, part, leaf = match.groups()
        if part in parts:
            return f"res{int(stage) + 1}.{index}.{parts[part]}.{leaf}"
    module, _, leaf = key.rpartition(".")
    return f"{top[module]}.{leaf}" if module in top else key


def block_counts(state: Mapping[str, object]) -> tuple[int, ...]:
    """Return the number of blocks in res2 to res5.

    Raises:
        UserError: No P3D has these counts.
    """
    last = dict.fromkeys((2, 3, 4, 5), -1)
    for key in state:
        if match := _BLOCK.match(key):
            stage, index = int(match[1]), int(match[2])
            last[stage] = max(last[stage], index)
    counts = tuple(index + 1 for index in last.values())
    if counts not in BLOCKS.values():
        known = "; ".join(f"{name} {blocks}" for name, blocks in BLOCKS.items())
        raise UserError(f"its stages have {counts} blocks, which fits no P3D ({known})")
    return counts


def check_class_count(count: int) -> None:
    """Check the number of classes of a file.

    Raises:
        UserError: It is less than 1 or more than `MAX_CLASSES`.
    """
    if not 1 <= count <= MAX_CLASSES:
        raise UserError(f"it has {count} classes, not 1 to {MAX_CLASSES}; give another file")


def config_from(
    state: Mapping[str, Tensor], *, wiring: str, variant: str | None = None
) -> P3DConfig:
    """Infer depth, number of classes and modality from keys and shapes.

    They reveal neither the wiring nor the order of blocks A, B and C.

    Raises:
        UserError: These are not the tensors of a whole P3D.
    """
    blocks = block_counts(state)
    name = next(name for name, counts in BLOCKS.items() if counts == blocks)
    stem, head = state.get("stem.conv.weight"), state.get("fc.weight")
    if stem is None or head is None or stem.dim() != 4 or head.dim() != 2:
        raise UserError("it has no stem or no classifier; give the weights of the whole network")
    modality = next((m for m, count in CHANNELS.items() if count == stem.shape[1]), None)
    if modality is None:
        raise UserError(f"its stem takes {stem.shape[1]} channels; P3D takes 3 (RGB) or 2 (flow)")
    check_class_count(head.shape[0])
    variant = variant or ("ABC" if any(".temporal." in key for key in state) else "2d")
    return P3DConfig(name, head.shape[0], modality, wiring, variant)  # type: ignore[arg-type]


def add_counters(state: dict[str, Tensor]) -> dict[str, Tensor]:
    """Add the `num_batches_tracked` that PyTorch before 0.4.1 did not save, in place."""
    for key in [key for key in state if key.endswith("bn.running_var")]:
        counter = key.removesuffix("running_var") + "num_batches_tracked"
        state.setdefault(counter, torch.tensor(0))
    return state


def _usable(dtype: torch.dtype) -> tuple[torch.dtype, ...]:
    """Return the types of numbers that can be loaded as this one."""
    return _FLOATS if dtype.is_floating_point else (*_FLOATS, *_INTEGERS)


def shorten(key: str) -> str:
    """Return a key for a message; those of foreign files can be of any length."""
    return key if len(key) <= 80 else f"{key[:80]}..."


def _summarize(fault: str, keys: Sequence[str]) -> list[str]:
    if not keys:
        return []
    more = f" and {len(keys) - 3} more" if len(keys) > 3 else ""
    return [f"{len(keys)} {fault} ({', '.join(map(shorten, keys[:3]))}{more})"]


def check_fit(model: nn.Module, state: Mapping[str, Tensor]) -> None:
    """Check that tensors have exactly a model's keys and shapes, and numbers of a usable type.

    Args:
        model: The model, possibly on the "meta" device.
        state: Dense tensors. Weights must be floating-point numbers of 16 to 64 bits.

    Raises:
        UserError: They do not. The message counts missing, unexpected, misshapen and unusable
            tensors and names some of them.
    """
    own = model.state_dict()
    misshapen = [
        f"{key} {tuple(state[key].shape)} for {tuple(own[key].shape)}"
        for key in own
        if key in state and state[key].shape != own[key].shape
    ]
    unusable = [
        f"{key} {str(state[key].dtype).removeprefix('torch.')}"
        for key, value in own.items()
        if key in state and state[key].dtype not in _usable(value.dtype)
    ]
    faults = [
        *_summarize("missing", [key for key in own if key not in state]),
        *_summarize("unexpected", [key for key in state if key not in own]),
        *_summarize("misshapen", misshapen),
        *_summarize("of an unusable type", unusable),
    ]
    if faults:
        raise UserError(
            f"its tensors do not fit the network: {'; '.join(faults)}; "
            "give a complete weight file of this network"
        )
