"""Activation checkpointing: the backward pass recomputes the activations inside each block.

This saves the memory of all activations except the blocks' inputs, and costs a second forward pass.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager, nullcontext

from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint


def run_checkpointed(block: nn.Module, x: Tensor, *sizes: int) -> Tensor:
    """Run a block and keep only its input for the backward pass."""
    out: Tensor = checkpoint(
        block,
        x,
        *sizes,
        use_reentrant=False,
        preserve_rng_state=False,  # nothing in a block is random
        context_fn=lambda: (nullcontext(), _unchanged_statistics(block)),
    )
    return out


@contextmanager
def _unchanged_statistics(block: nn.Module) -> Iterator[None]:
    """Keep the recomputation from counting the batch twice in the running statistics."""
    norms = [norm for norm in block.modules() if isinstance(norm, nn.BatchNorm2d) and norm.training]
    momenta = [norm.momentum for norm in norms]
    for norm in norms:
        norm.momentum = 0.0
    try:
        yield
    finally:
        for norm, momentum in zip(norms, momenta, strict=True):
            norm.momentum = momentum
            if norm.num_batches_tracked is not None:
                norm.num_batches_tracked.sub_(1)
