"""What a worker of `p3d score` does: read the clips of a video, and compute its row."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any, Literal, NamedTuple

import torch
from torch import Tensor

from p3d.archive.parts import Row
from p3d.data.clips import check_source, read_eval_clips
from p3d.errors import BadVideoError, UserError
from p3d.inference.backends.names import BackendChoice
from p3d.inference.clip_plan import ClipPlan, NumClips, plan_clips, settled_threshold
from p3d.inference.exported import ExportedNetwork
from p3d.inference.networks import load_network, make_scorer
from p3d.inference.pipe import num_threads
from p3d.inference.scorer import Scorer, mean_probabilities
from p3d.inference.unchanged import leave_out_notes, load_unchanged
from p3d.model.network import P3D
from p3d.system.device import DeviceName, Precision, count_devices, resolve_device, set_up_cpu
from p3d.video.decode import open_video
from p3d.video.remote import is_address, public_name

What = Literal["top", "scores", "features"]


@dataclass(frozen=True)
class ScoreWork:
    """What `p3d score` computes, and by which network; see `ScoreOptions`."""

    weights: Path
    sha256: str
    what: What
    top: int
    clips: NumClips
    batch_size: int | None
    backend: BackendChoice
    device: DeviceName
    precision: Precision
    threads: int | None
    workers: int | None
    frame_rate: float | None

    def load(self) -> P3D | ExportedNetwork:
        """Load the network.

        Raises:
            UserError: The file cannot be read, or is not the one that the run began with.
        """
        return load_unchanged(
            self.weights, self.sha256, partial(load_network, backend=self.backend)
        )

    def start(self, number: int) -> ScoreStages:
        """See `p3d.archive.work.Work`."""
        leave_out_notes()
        set_up_cpu(self.threads)
        count = count_devices(resolve_device(self.device))
        device = resolve_device(self.device, number % count)
        return ScoreStages(self, self.load(), device)


class _Read(NamedTuple):
    """What is read of a video first: the clips of the first group, and its number of frames."""

    clips: Tensor
    frames: int


class ScoreStages:
    """The two stages, see `p3d.archive.work.Stages`.

    The clips of a video are in batches of their own: what else is scored changes no bit of a row.

    Args:
        work: What to compute.
        network: The network.
        device: Where to compute.

    Raises:
        UserError: The network cannot compute that there.
    """

    def __init__(
        self, work: ScoreWork, network: P3D | ExportedNetwork, device: torch.device
    ) -> None:
        self._work = work
        self._names = class_names(network)
        self._scorer = _make_scorer(work, network, device)
        settled = settled_threshold(network.calibration)[0]
        self._plan: ClipPlan = plan_clips(work.clips, settled, self._scorer.batch_size)
        self.threads = num_threads(work.workers, device)

    def read(self, source: str) -> _Read:
        """Read the first clips of a video."""
        return self._read(source, self._plan.groups[0])

    def _read(self, source: str, numbers: Sequence[int]) -> _Read:
        prep, is_flow = self._scorer.preprocessing, self._scorer.preprocessing.channels == "flow"
        with open_video(source, prefer_flow=is_flow, fps=self._work.frame_rate) as video:
            try:
                check_source(public_name(source) if is_address(source) else source, video, prep)
            except BadVideoError as error:
                if is_flow:  # ends the run: the folder is no folder of flow, or of another flow
                    raise UserError(str(error)) from error
                raise
            clips = read_eval_clips(video, prep, self._plan.num_clips, numbers=numbers)
            return _Read(clips, video.num_frames)

    def compute(self, source: str, content: Any) -> Row:
        """Return the row of a video, without its name."""
        outputs = self._outputs(source, content.clips)
        return {"frames": content.frames, "clips": len(outputs), **self._values(outputs)}

    def _outputs(self, source: str, clips: Tensor) -> Tensor:
        """Return logits or features of the clips that the answer takes; reads more if needed."""
        outputs = self._scorer(clips)
        for number, group in enumerate(self._plan.groups[1:], 1):
            if self._plan.used(outputs, number) is not None:
                break
            more = self._scorer(self._read(source, group).clips)
            outputs = torch.cat([outputs, more])
        return outputs[: self._plan.used(outputs, len(self._plan.groups))]

    def _values(self, outputs: Tensor) -> Row:
        if self._work.what == "features":
            return {"features": outputs.mean(0).numpy()}
        probabilities = mean_probabilities(outputs / self._scorer.temperature)
        if self._work.what == "scores":
            return {"scores": probabilities.numpy()}
        best = probabilities.topk(min(self._work.top, len(self._names)))
        names = [self._names[index] for index in best.indices.tolist()]
        return {"classes": names, "scores": best.values.numpy()}


def class_names(network: P3D | ExportedNetwork) -> tuple[str, ...]:
    """Return the names of a network's classes; their numbers if it has no names."""
    return network.class_names or tuple(map(str, range(network.config.num_classes)))


def _make_scorer(work: ScoreWork, network: P3D | ExportedNetwork, device: torch.device) -> Scorer:
    if work.what != "features":
        return make_scorer(
            network,
            device,
            work.precision,
            backend=work.backend,
            batch_size=work.batch_size,
            say=False,
        )
    return Scorer(
        network,
        device,
        work.precision,
        layer="pool5",
        compiled=work.backend == "compiled",
        batch_size=work.batch_size,
    )
