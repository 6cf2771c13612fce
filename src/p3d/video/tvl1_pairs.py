"""The inner iterations of TV-L1 flow, at one scale, in place on a few buffers."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, fields

import torch
from torch import Tensor


@dataclass
class Pairs:
    """The flow of frame pairs, and all that its iterations need.

    Flow is kept in units in which one dual step is a plain difference of it. Dual variables along
    x are zero in the last column and those along y in the last row, so that differences can be
    taken between shifted views of flat memory: nothing crosses into the next row or picture.

    Attributes:
        flow: Motion along x and y, `(N, 2, H, W)` like the others but `rest`.
        dual_x: Dual variables of the differences along x.
        dual_y: Dual variables of the differences along y.
        rest: `(N, 1, H, W)`. The data term's residual over its squared slope is
            `rest + slope[:, :1] * flow[:, :1] + slope[:, 1:] * flow[:, 1:]`.
        slope: See `rest`.
        descent: Change of flow per bounded ratio of residual and squared slope.
        new: A buffer, as the following are.
        rise_x: Differences of flow along x.
        rise_y: Differences of flow along y.
        norm: One plus the length of both.
    """

    flow: Tensor
    dual_x: Tensor
    dual_y: Tensor
    rest: Tensor
    slope: Tensor
    descent: Tensor
    new: Tensor
    rise_x: Tensor
    rise_y: Tensor
    norm: Tensor

    @classmethod
    def start(cls, flow: Tensor) -> Pairs:
        """Return pairs with this flow, without a data term; dual variables are zero."""
        dual_x, dual_y, *others = (torch.zeros_like(flow) for _ in range(8))
        return cls(flow, dual_x, dual_y, torch.zeros_like(flow[:, :1]), *others)

    def linearize(self, first: Tensor, warped: Tensor, unit: float) -> None:
        """Set the data term: brightness changes linearly about the present flow.

        Args:
            first: First frames `(N, H, W)`.
            warped: Second frames and their slopes along x and y, at the present flow:
                `(N, 3, H, W)`.
            unit: Flow per pixel of motion.
        """
        slope = warped[:, 1:]
        energy = slope.square().sum(1, keepdim=True)
        inverse = energy.clamp_(min=torch.finfo(energy.dtype).tiny ** 0.5).reciprocal_()
        torch.mul(slope, inverse / unit, out=self.slope)
        torch.mul(slope, -unit, out=self.descent)
        torch.mul(warped[:, :1] - first.unsqueeze(1), inverse, out=self.rest)
        self.rest.sub_((self.slope * self.flow).sum(1, keepdim=True))

    def iterate(self, step: float, bound: float) -> Tensor:
        """Improve flow, then its dual variables, once.

        Args:
            step: Step of the dual iteration.
            bound: Limit of the ratio of residual and squared slope.

        Returns:
            Root of the summed squared changes of each pair's flow, `(N,)`.
        """
        self._threshold(bound)
        self._add_divergence(step)
        difference = torch.sub(self.new, self.flow, out=self.norm)
        change: Tensor = torch.linalg.vector_norm(difference.flatten(1), dim=1)
        self.flow, self.new = self.new, self.flow
        self._ascend()
        return change

    def _threshold(self, bound: float) -> None:
        ratio, flow = self.norm[:, :1], self.flow
        torch.addcmul(self.rest, self.slope[:, :1], flow[:, :1], out=ratio)
        ratio.addcmul_(self.slope[:, 1:], flow[:, 1:]).clamp_(-bound, bound)
        torch.addcmul(flow, self.descent, ratio, out=self.new)

    def _add_divergence(self, step: float) -> None:
        new, width = self.new.view(-1), self.new.shape[-1]
        dual_x, dual_y = self.dual_x.view(-1), self.dual_y.view(-1)
        new.add_(dual_x, alpha=step)
        new[1:].sub_(dual_x[:-1], alpha=step)
        new.add_(dual_y, alpha=step)
        new[width:].sub_(dual_y[:-width], alpha=step)

    def _ascend(self) -> None:
        flow, width = self.flow.view(-1), self.flow.shape[-1]
        torch.sub(flow[1:], flow[:-1], out=self.rise_x.view(-1)[:-1])
        torch.sub(flow[width:], flow[:-width], out=self.rise_y.view(-1)[:-width])
        self.rise_x[..., -1] = 0
        self.rise_y[..., -1, :] = 0
        torch.mul(self.rise_x, self.rise_x, out=self.norm)
        self.norm.addcmul_(self.rise_y, self.rise_y).sqrt_().add_(1)
        self.dual_x.add_(self.rise_x).div_(self.norm)
        self.dual_y.add_(self.rise_y).div_(self.norm)

    def select(self, pairs: Sequence[int]) -> Pairs:
        """Return a copy of some pairs."""
        index = torch.tensor(pairs, device=self.flow.device)
        return Pairs(*(getattr(self, field.name)[index] for field in fields(self)))

    def update(self, pairs: Sequence[int], values: Pairs) -> None:
        """Set the flow and the dual variables of some pairs."""
        if values is not self:
            index = torch.tensor(pairs, device=self.flow.device)
            self.flow[index] = values.flow
            self.dual_x[index], self.dual_y[index] = values.dual_x, values.dual_y
