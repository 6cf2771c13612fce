"""Activation checkpointing: a block's activations are computed again when the gradient needs them.

It costs a second forward pass of the blocks and saves what they keep, but for their inputs.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager, nullcontext

from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint


def run_and_keep(block: nn.Module, x: Tensor, frames: int) -> Tensor:
    """Run a block as usual."""
    out: Tensor = block(x, frames)
    return out


def run_and_forget(block: nn.Module, x: Tensor, frames: int) -> Tensor:
    """Run a block, keeping its input alone for the gradient."""
    out: Tensor = checkpoint(
        block,
        x,
        frames,
        use_reentrant=False,
        preserve_rng_state=False,  # nothing in a block is random
        context_fn=lambda: (nullcontext(), _statistics_untouched(block)),
    )
    return out


@contextmanager
def _statistics_untouched(block: nn.Module) -> Iterator[None]:
    """The second time, batch normalisations must not count the same batch again."""
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
