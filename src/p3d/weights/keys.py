"""What a state dict's keys and shapes, in our names, say about its network; and strict loading."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from typing import cast

import torch
from torch import Tensor, nn

from p3d.errors import UserError
from p3d.model.network import BLOCKS, CHANNELS, Modality, Name, P3DConfig, Variant, Wiring

_BLOCK = re.compile(r"res([2-5])\.(\d+)\.")


def block_counts(state: Mapping[str, object]) -> tuple[int, ...]:
    """How many blocks res2 to res5 have, by the keys.

    Raises:
        UserError: The counts are those of no known depth.
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


def config_from(
    state: Mapping[str, Tensor], *, wiring: str, variant: str | None = None, dropout: float = 0.5
) -> P3DConfig:
    """Read depth, class count and modality off the tensors.

    Wiring leaves no trace in them, and neither does the order of A, B and C.

    Raises:
        UserError: The tensors are not a whole P3D's.
    """
    blocks = block_counts(state)
    name = next(name for name, counts in BLOCKS.items() if counts == blocks)
    stem, head = state.get("stem.conv.weight"), state.get("fc.weight")
    if stem is None or head is None or stem.dim() != 4 or head.dim() != 2:
        raise UserError("it has no stem or no classifier; give the weights of the whole network")
    modality = next((m for m, count in CHANNELS.items() if count == stem.shape[1]), None)
    if modality is None:
        raise UserError(f"its stem takes {stem.shape[1]} channels; P3D takes 3 (RGB) or 2 (flow)")
    if not any(".temporal." in key for key in state):
        variant = variant or "2d"
    return P3DConfig(
        cast(Name, name),
        head.shape[0],
        cast(Modality, modality),
        cast(Wiring, wiring),
        cast(Variant, variant or "ABC"),
        dropout,
    )


def complete_counters(state: dict[str, Tensor]) -> dict[str, Tensor]:
    """Add `num_batches_tracked` where old PyTorch (before 0.4.1) did not save it."""
    for key in [key for key in state if key.endswith("bn.running_var")]:
        counter = key.removesuffix("running_var") + "num_batches_tracked"
        state.setdefault(counter, torch.tensor(0))
    return state


def _listed(what: str, keys: Sequence[str]) -> list[str]:
    if not keys:
        return []
    more = f" and {len(keys) - 3} more" if len(keys) > 3 else ""
    return [f"{len(keys)} {what} ({', '.join(keys[:3])}{more})"]


def check_fit(model: nn.Module, state: Mapping[str, Tensor]) -> None:
    """Check that tensors have exactly a model's keys and shapes.

    Raises:
        UserError: They do not; it says how many are missing, unexpected or misshapen, and which.
    """
    own = model.state_dict()
    misshapen = [
        f"{key} {tuple(state[key].shape)} for {tuple(own[key].shape)}"
        for key in own
        if key in state and state[key].shape != own[key].shape
    ]
    faults = [
        *_listed("missing", [key for key in own if key not in state]),
        *_listed("unexpected", [key for key in state if key not in own]),
        *_listed("misshapen", misshapen),
    ]
    if faults:
        raise UserError(
            f"its tensors do not fit the network: {'; '.join(faults)}; "
            "give the whole weights of this very network"
        )
