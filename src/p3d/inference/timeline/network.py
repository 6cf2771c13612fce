"""The network of `p3d timeline`, with its windows."""

from __future__ import annotations

from dataclasses import asdict
from pathlib import Path
from typing import Any

from p3d.inference.arguments import local_path
from p3d.inference.networks import chosen_backend, load_network, make_scorer
from p3d.inference.scorer import Scorer
from p3d.inference.timeline.calibrated import describe_cut
from p3d.inference.timeline.options import TimelineOptions
from p3d.inference.timeline.windows import WindowPlan, make_plan
from p3d.system.device import resolve_device
from p3d.system.files import file_sha256
from p3d.system.messages import print_note
from p3d.weights.loading import find_weights

_ASSUMED_RATE = 25.0
"""For the guess of how many windows a video has."""


class TimelineNetwork:
    """The network of the command.

    Args:
        options: The options.
        seconds: Length of all videos, if known, by which a backend is chosen.
        batch_size: Windows on the device at once; None for what suits it.
        device_index: Which device of its kind to use.

    Attributes:
        plan: How long windows are, and how far apart.
        scorer: Scores windows.
        names: Names of the classes; their numbers if the network has no names.
        settings: What scores depend on, as JSON values.
        cut: How scores become segments.

    Raises:
        UserError: The weights cannot be read, or there is no such device.
    """

    def __init__(
        self,
        options: TimelineOptions,
        seconds: float | None,
        batch_size: int | None,
        device_index: int = 0,
    ) -> None:
        weights = find_weights(local_path(options.weights, "weights"))
        backend = chosen_backend(options.backend, compiled=options.compute.compile)
        network = load_network(weights, backend)
        self.plan = make_plan(network.preprocessing, options.window, options.stride)
        self.scorer = make_scorer(
            network,
            resolve_device(options.compute.device, device_index),
            options.compute.precision,
            backend=backend,
            batch_size=batch_size,
            clips=None if seconds is None else _num_windows(self.plan, seconds),
        )
        self.names = network.class_names or tuple(map(str, range(network.config.num_classes)))
        self.settings = _settings(options, weights, self.plan, self.scorer)
        self.cut, self._cut_origin = options.cut.resolve(network.calibration)
        length, stride = self.plan.seconds, self.plan.stride
        if length is not None and stride is not None and stride > length + 1e-9:
            print_note(
                f"--stride {stride:g} is more than a window of {length:g} s; what lies between "
                "windows is not seen"
            )

    @property
    def cut_note(self) -> str:
        """How scores become segments, and who says so."""
        return f"segments: {describe_cut(self.cut)} ({self._cut_origin})"

    @property
    def all_settings(self) -> dict[str, Any]:
        """What segments depend on, as JSON values."""
        return {**self.settings, "segments": asdict(self.cut)}


def _num_windows(plan: WindowPlan, seconds: float) -> int:
    stride = plan.stride or plan.num_frames * plan.frame_stride / _ASSUMED_RATE / 2
    return round(seconds / stride)


def _settings(
    options: TimelineOptions, weights: Path, plan: WindowPlan, scorer: Scorer
) -> dict[str, Any]:
    """Return what scores depend on, as JSON values."""
    return {
        "weights": file_sha256(weights),
        "windows": asdict(plan),
        "precision": scorer.precision,
        "batch_size": scorer.batch_size,
        "fps": options.fps,
    }
