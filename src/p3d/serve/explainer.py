"""Grad-CAM for requests: where and when the network looks for a class."""

from __future__ import annotations

import threading
from dataclasses import dataclass
from functools import cached_property
from typing import Any

from torch import Tensor

from p3d.evaluation.gradcam import grad_cam
from p3d.inference.exported import ExportedNetwork
from p3d.inference.scorer import Scorer
from p3d.model.network import P3D
from p3d.preprocessing import normalize


@dataclass(frozen=True)
class Explanation:
    """Where a network looks for a class in a clip.

    Attributes:
        target: The class.
        score: Its probability in this clip.
        span: Start and end of the clip in seconds.
        box: The part of the frame that the network sees, as fractions: left, top, width, height.
        maps: float32 `(T', H', W')` from 0 to 1.
    """

    target: int
    score: float
    span: tuple[float, float]
    box: tuple[float, float, float, float]
    maps: Tensor


class Explainer:
    """A network with gradients, beside the scorer of the same network.

    Args:
        network: The network.
        scorer: Says on which device, and what logits are divided by.
        turn: Held while the network computes, so that one thread at a time does.
    """

    def __init__(
        self, network: P3D | ExportedNetwork, scorer: Scorer, turn: threading.Lock
    ) -> None:
        self._network, self._scorer, self._turn = network, scorer, turn

    def explain(self, about: dict[str, Any], clip: Tensor, target: int | None) -> Explanation:
        """Find where the network looks for a class in a clip.

        Args:
            about: Where the clip is, as the decoder says it.
            clip: uint8 `(1, T, H, W, C)`.
            target: The class; None for the most likely one.
        """
        with self._turn:
            model = self._model
            inputs = normalize(clip.to(self._scorer.device), model.preprocessing)
            logits, maps = grad_cam(model, inputs, target, "res4")
        scores = (logits[0].float() / self._scorer.temperature).softmax(0)
        shown = int(scores.argmax()) if target is None else target
        maps = maps[0].float().cpu()
        maps = maps / maps.max().clamp_min(1e-12)
        return Explanation(shown, float(scores[shown]), about["span"], about["box"], maps)

    @cached_property
    def _model(self) -> P3D:
        """The network on the device; made when it is first needed."""
        assert isinstance(self._network, P3D), "the route checks it"
        return self._network.eval().requires_grad_(False).to(self._scorer.device)
