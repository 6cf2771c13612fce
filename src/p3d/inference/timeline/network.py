"""The network of `p3d timeline`, or both, with the windows."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

import torch

from p3d.errors import UserError
from p3d.inference.arguments import local_path
from p3d.inference.exported import ExportedNetwork
from p3d.inference.fusion import Fusion
from p3d.inference.networks import chosen_backend, load_network, make_scorer
from p3d.inference.timeline.calibrated import describe_cut
from p3d.inference.timeline.options import TimelineOptions
from p3d.inference.timeline.window_scorer import WindowScorer
from p3d.inference.timeline.windows import WindowPlan, make_plan
from p3d.inference.two_streams import Stream, check_streams, chosen_fusion
from p3d.model.network import P3D
from p3d.system.device import resolve_device
from p3d.system.files import file_sha256
from p3d.system.messages import print_note
from p3d.weights.loading import find_weights

_ASSUMED_RATE = 25.0
"""For the guess of how many windows a video has."""


def find_networks(networks: Sequence[Path]) -> list[Path]:
    """Return the weight files that the words on the command line name."""
    return [find_weights(local_path(path, "weights")) for path in networks]


def weights_sha256(files: Sequence[Path]) -> str:
    """Return what identifies the weights of a timeline."""
    return " ".join(map(file_sha256, files))


class TimelineNetwork:
    """The network of the command, or both.

    Args:
        options: The options.
        networks: The weights of the network; or of two, for pictures and for flow.
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
        UserError: The weights cannot be read, two networks do not fit each other, or there is no
            such device.
    """

    def __init__(
        self,
        options: TimelineOptions,
        networks: Sequence[Path],
        seconds: float | None,
        batch_size: int | None,
        device_index: int = 0,
    ) -> None:
        files = find_networks(networks)
        backend = chosen_backend(options.backend, compiled=options.compute.compile)
        loaded = [load_network(file, backend) for file in files]
        plans = [make_plan(each.preprocessing, options.window, options.stride) for each in loaded]
        self.plan = plans[0]
        device = resolve_device(options.compute.device, device_index)
        clips = None if seconds is None else _num_windows(self.plan, seconds)
        streams = [
            _stream(str(path), network, options, device, batch_size, clips)
            for path, network in zip(networks, loaded, strict=True)
        ]
        fusion = _fusion(options, streams, plans) if len(streams) == 2 else None
        self.scorer = WindowScorer(self.plan, [each.scorer for each in streams], fusion)
        self.names = streams[0].class_names
        self.settings = _settings(options, files, self.scorer, fusion)
        # What was calibrated for one network does not hold for a mean of two.
        calibration = loaded[0].calibration if fusion is None else {}
        self.cut, self._cut_origin = options.cut.resolve(calibration)
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


def _stream(
    name: str,
    network: P3D | ExportedNetwork,
    options: TimelineOptions,
    device: torch.device,
    batch_size: int | None,
    clips: int | None,
) -> Stream:
    scorer = make_scorer(
        network,
        device,
        options.compute.precision,
        backend=chosen_backend(options.backend, compiled=options.compute.compile),
        batch_size=batch_size,
        clips=clips,
    )
    names = network.class_names or tuple(map(str, range(network.config.num_classes)))
    return Stream(name, scorer, names)


def _fusion(
    options: TimelineOptions, streams: Sequence[Stream], plans: Sequence[WindowPlan]
) -> Fusion:
    """Return how the scores of two networks are fused."""
    first, second = streams
    check_streams(first, second)
    if plans[0] != plans[1]:
        raise UserError(
            f"{first.name} takes {plans[0].describe()}, and {second.name} "
            f"{plans[1].describe()}; give --window and --stride, or networks of the same clips"
        )
    fusion = chosen_fusion(options.fusion, [Path(stream.name) for stream in streams])
    print_note(f"mean of {fusion.of}, weight of {second.name} {fusion.weight:g}")
    return fusion


def _num_windows(plan: WindowPlan, seconds: float) -> int:
    stride = plan.stride or plan.num_frames * plan.frame_stride / _ASSUMED_RATE / 2
    return round(seconds / stride)


def _settings(
    options: TimelineOptions, files: Sequence[Path], scorer: WindowScorer, fusion: Fusion | None
) -> dict[str, Any]:
    """Return what scores depend on, as JSON values."""
    return {
        "weights": weights_sha256(files),
        "windows": asdict(scorer.plan),
        "precision": scorer.precision,
        "batch_size": scorer.batch_size,
        "fps": options.fps,
        **({} if fusion is None else {"fusion": asdict(fusion)}),
    }
