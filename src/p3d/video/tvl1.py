"""TV-L1 optical flow in PyTorch, for batches of frame pairs on any device.

The method is that of Zach, Pock and Bischof 2007, "A Duality Based Approach for Realtime TV-L1
Optical Flow", as detailed by Sánchez, Meinhardt-Llopis and Facciolo 2013 (IPOL): flow is refined
from a coarse to a fine scale; at each scale the second frame is warped several times, and after
each warp a convex problem is solved by alternating a pointwise threshold of the data term with
dual steps of the total variation. Parameters, pyramid, order of steps, stopping rule and median
filter are those of OpenCV's `DualTVL1OpticalFlow`, so that flow networks see the same input.

All arithmetic is in the floating type of the frames. There is no matrix product and no convolution
in it, so TF32 and the matmul precision change nothing.

A pair stops iterating once its flow changes little, and then leaves its batch. How long that takes
depends on the frames, so compile the parts (`Pairs.iterate`, `median_5x5`), each of which is one
graph, and not the whole.

Rounding is amplified where motion is ambiguous: a change of 1e-4 gray levels moves the flow of some
real frames by 0.06 px on average, in OpenCV as here. Differences between the two are of this size.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
from torch import Tensor

from p3d.video.median import median_5x5
from p3d.video.tvl1_pairs import Pairs
from p3d.video.warping import central_differences, resize_linear, warp

_SMALLEST = 16
"""Sides of the coarsest scale, at least, in pixels."""


@dataclass(frozen=True)
class TVL1:
    """Parameters of TV-L1 flow; the defaults are OpenCV's.

    Call it with pairs of frames to compute their flow.

    Attributes:
        tau: Step of the dual iteration.
        lambda_: Weight of the data term; smaller is smoother.
        theta: Coupling of the data term and the total variation.
        scales: Number of scales, at most.
        scale_step: Size of a scale, relative to the next finer one.
        warps: How often the second frame is warped at each scale.
        epsilon: Iterations after a warp end when flow changes by less, in pixels (RMS).
        outer_iterations: Median filters after each warp, at most.
        inner_iterations: Iterations after each median filter, at most.
        median: Whether flow is filtered by medians of 5x5 pixels.
    """

    tau: float = 0.25
    lambda_: float = 0.15
    theta: float = 0.3
    scales: int = 5
    scale_step: float = 0.8
    warps: int = 5
    epsilon: float = 0.01
    outer_iterations: int = 10
    inner_iterations: int = 30
    median: bool = True

    def __call__(self, first: Tensor, second: Tensor) -> Tensor:
        """Compute the motion from `first` to `second`.

        Args:
            first: Gray frames `(N, H, W)`, floating point, values in [0, 255].
            second: The frames that follow, of the same shape.

        Returns:
            Motion `(N, 2, H, W)` along x (right) and y (down), in pixels.
        """
        with torch.no_grad():
            scales = list(zip(self._pyramid(first), self._pyramid(second), strict=True))
            coarsest = scales[-1][0]
            flow = torch.stack([torch.zeros_like(coarsest)] * 2, 1)
            for one, other in reversed(scales):
                flow = self._refine(one, other, self._enlarge(flow, one))
        return flow

    def _pyramid(self, frames: Tensor) -> list[Tensor]:
        """Return the frames from the finest scale to the coarsest."""
        pyramid = [frames]
        while len(pyramid) < self.scales:
            height, width = (round(side * self.scale_step) for side in pyramid[-1].shape[1:])
            if min(height, width) < _SMALLEST:
                break
            step = 1 / self.scale_step
            pyramid.append(resize_linear(pyramid[-1], (height, width), (step, step)))
        return pyramid

    def _enlarge(self, flow: Tensor, frames: Tensor) -> Tensor:
        """Return the flow of one scale at the size of `frames`, those of the next."""
        old, new = flow.shape[-2:], frames.shape[-2:]
        if old == new:
            return flow
        steps = old[0] / new[0], old[1] / new[1]
        larger = resize_linear(flow.flatten(0, 1), (new[0], new[1]), steps)
        return larger.view(-1, 2, *new) / self.scale_step

    def _refine(self, first: Tensor, second: Tensor, motion: Tensor) -> Tensor:
        """Improve motion at one scale. Dual variables go on from warp to warp."""
        images = torch.stack([second, *central_differences(second)], 1)
        pairs = Pairs.start(motion * self._unit)
        for _ in range(self.warps):
            pairs.linearize(first, warp(images, pairs.flow / self._unit), self._unit)
            self._iterate(pairs)
        return pairs.flow / self._unit

    @property
    def _unit(self) -> float:
        return self.tau / self.theta

    def _iterate(self, pairs: Pairs) -> None:
        """Solve the problem of one warp for each pair."""
        enough = self.epsilon * self._unit * math.sqrt(pairs.rest[0].numel())
        running, moving = list(range(len(pairs.flow))), pairs
        for index in range(self.outer_iterations * self.inner_iterations):
            if self.median and index % self.inner_iterations == 0:
                moving.flow.copy_(median_5x5(moving.flow.flatten(0, 1)).view_as(moving.flow))
            changes = moving.iterate(self.tau, self.lambda_ * self.theta).tolist()
            going = [at for at, change in enumerate(changes) if change > enough]
            if len(going) < len(running):
                pairs.update(running, moving)
                running = [running[at] for at in going]
                if not running:
                    return
                moving = pairs.select(running)
        pairs.update(running, moving)
