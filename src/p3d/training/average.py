"""Weights averaged over the last steps of a run."""

from __future__ import annotations

import copy
import math

import torch

from p3d.model.network import P3D


class WeightAverage:
    """The exponential mean of a network's weights after each optimizer step.

    After step t, the weights of step s count in proportion to `exp((s - t) / span)`, and the
    factors of all steps from the first one on sum to 1: early means do not lean on the weights that
    the run started from. The mean depends on past steps alone, so it can be validated at any time,
    and a run can be extended.

    Statistics of batch normalization are averaged like weights. The alternative, computing them
    anew for the averaged weights, takes a pass over the training clips for each validation. It is
    needed where weights far apart are averaged; those of neighboring steps are close.

    Frozen parts are equal to those of the network, bit for bit.

    Args:
        model: The network, on its device; copied.
        span: Steps after which a step counts by a factor of e less, > 0.

    Attributes:
        network: The averaged network, in evaluation mode. Before the first step it is that of the
            start.
    """

    def __init__(self, model: P3D, span: float) -> None:
        self.network = copy.deepcopy(model).requires_grad_(False).eval()
        self._span = span

    @torch.no_grad()
    def update(self, model: P3D, step: int) -> None:
        """Include the weights after a step, counted from 1."""
        share = math.expm1(-1 / self._span) / math.expm1(-step / self._span)
        means, values = self.network.state_dict(), model.state_dict()
        for name, mean in means.items():
            if mean.is_floating_point():
                mean.lerp_(values[name], share)
            else:  # the number of batches that batch normalization has seen
                mean.copy_(values[name])
