"""Options of `p3d features`."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path
from typing import Annotated, Literal

from p3d.archive.options import ClusterOptions, PoolOptions
from p3d.data.layouts import DataOptions
from p3d.data.loader import BadVideoPolicy
from p3d.errors import UserError
from p3d.model.config import Layer
from p3d.system.markers import First, Heading
from p3d.system.options import DeviceOptions, check_least

LayerName = Literal["pool5", "prob", "res5", "res5c", "res4"]


@dataclass(frozen=True)
class FeaturesOptions:
    """Compute features of all videos of a data set: one .npz for the set, or one .npy a video.

    The same command goes on where it was interrupted.
    """

    data: DataOptions
    weights: Path
    """Weight file, in any format that p3d reads."""
    out: Path
    """File to write, which ends in .npz; with --per-video, a folder."""
    layer: Annotated[First[LayerName], Heading("features")] = "pool5"
    """pool5: 2048 values, the input of the classifier; prob: class probabilities; res5 (also
    res5c) and res4: the output of the stage's last block, channels x time x height x width."""
    split: First[Literal["all", "train", "validation", "test"]] = "all"
    """Split whose videos to take, or all videos."""
    clips: First[int] = 20
    """Clips of each video, uniformly spaced."""
    mirror: First[bool] = False
    """Average each clip's features with those of its mirror image."""
    per_clip: bool = False
    """Keep the features of each clip; by default they are averaged over a video's clips."""
    pool: bool = False
    """Average res4 or res5 over time, height and width: one value for each channel."""
    per_video: First[bool] = False
    """Write a folder with one .npy for each video, and features.json, which lists them."""
    batch_size: First[int | None] = None
    """Clips on the device at once, all of one video; by default what suits the device."""
    workers: int = 2
    """Threads of each process that decode; 0 decodes between the computations."""
    machine: PoolOptions = field(default_factory=PoolOptions)
    cluster: ClusterOptions = field(default_factory=ClusterOptions)
    compute: DeviceOptions = field(default_factory=DeviceOptions)
    on_bad_video: BadVideoPolicy = "error"
    """What to do with a video that cannot be read: stop, or leave it out and report it."""

    @property
    def stage(self) -> Layer | None:
        """The network's layer to read; None for its logits."""
        if self.layer == "prob":
            return None
        return "res5" if self.layer == "res5c" else self.layer

    def check(self) -> None:
        """Check what can be checked before anything is read.

        Raises:
            UserError: Options contradict each other.
        """
        check_least(1, clips=self.clips, batch_size=self.batch_size)
        check_least(0, workers=self.workers)
        if self.pool and self.layer in ("pool5", "prob"):
            raise UserError(
                f"--pool: {self.layer} is pooled already; drop it, or give res4 or res5"
            )
        is_folder = self.out.is_dir() or self.out.suffix.lower() != ".npz"
        if is_folder and not self.per_video:
            raise UserError(f"--out {self.out}: give a file that ends in .npz, or --per-video")
        if self.per_video and self.out.is_file():
            raise UserError(f"--out {self.out}: is a file; --per-video writes a folder")
