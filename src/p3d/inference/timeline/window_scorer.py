"""The windows of a video as one or two networks score them."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import TypeAlias

import torch
from torch import Tensor

from p3d.inference.fusion import Fusion
from p3d.inference.scorer import Scorer
from p3d.inference.timeline.frames import TimedFrames, network_frames
from p3d.inference.timeline.motion import Motion, read_clips
from p3d.inference.timeline.windows import Window, WindowPlan
from p3d.system.device import needs_pinned_memory

Clips: TypeAlias = "list[Tensor | list[tuple[Tensor | Motion, ...]]]"
"""For each network uint8 `(N, T, H, W, C)`, or the frames of each clip where flow is missing."""


class WindowScorer:
    """A network, or two whose scores are fused, and the windows that it scores.

    Args:
        plan: Where windows are.
        scorers: The network; or two, in the order of the fusion.
        fusion: How the scores of two networks are fused; None for one.

    Attributes:
        plan: As given.
        preps: The preprocessing of each network.
        device: Where the networks compute.
        precision: Their arithmetic.
        batch_size: Windows that are scored together.
        temperature: What the logits of `score` are to be divided by; fused ones are not.
        frames_late: After how many frames more a window is complete.
    """

    def __init__(
        self, plan: WindowPlan, scorers: Sequence[Scorer], fusion: Fusion | None = None
    ) -> None:
        self.plan, self._scorers, self._fusion = plan, tuple(scorers), fusion
        first = scorers[0]
        self.preps = tuple(scorer.preprocessing for scorer in scorers)
        self.device, self.precision = first.device, first.precision
        self.batch_size = min(scorer.batch_size for scorer in scorers)
        self.temperature = first.temperature if fusion is None else 1.0
        self.frames_late = int(any(prep.channels == "flow" for prep in self.preps))

    def windows(self, video: TimedFrames, done: int = 0) -> Iterator[Window]:
        """Return the windows of a video, see `WindowPlan.windows`."""
        return self.plan.windows(network_frames(video, self.preps, self.device), done)

    def stack(self, windows: Sequence[Window]) -> Clips:
        """Return the clips of windows; flow is not computed yet."""
        found: Clips = []
        for network in range(len(self._scorers)):
            clips = [window.clip(network) for window in windows]
            if any(isinstance(frame, Motion) for frame in clips[0]):
                found.append(clips)
                continue
            batch = read_clips(clips)
            found.append(batch.pin_memory() if needs_pinned_memory(self.device) else batch)
        return found

    def score(self, clips: Clips) -> Tensor:
        """Compute missing flow, and return the scores of windows.

        Args:
            clips: Those of at least one window.

        Returns:
            float32 `(N, num_classes)`: logits, of two networks the logarithms of probabilities.
        """
        batches = [each if isinstance(each, Tensor) else read_clips(each) for each in clips]
        pairs = zip(self._scorers, batches, strict=True)
        logits = [scorer(batch).unsqueeze(-2) for scorer, batch in pairs]
        if self._fusion is None:
            return logits[0].squeeze(-2)
        return self._fusion.log_probabilities(logits[0], logits[1]).to(torch.float32)
