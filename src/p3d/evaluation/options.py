"""The options of `p3d eval`."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path

from p3d.data.dataset import Split
from p3d.data.layouts import DataOptions
from p3d.data.loader import BadVideoPolicy
from p3d.data.views import Crops
from p3d.evaluation.motion import Frames
from p3d.evaluation.protocols import NUM_CLIPS, Name
from p3d.inference.backends.names import BackendChoice
from p3d.inference.clip_plan import NumClips
from p3d.system.markers import First
from p3d.system.options import DeviceOptions


@dataclass(frozen=True)
class EvalOptions:
    """Measure a network on a split of a data set: every video once, mean of its clips' scores."""

    data: DataOptions
    weights: Path
    """Weights in any format that p3d reads, a run's folder, or a file of `p3d export`. A .pt2 is a
    program; use only one that you trust."""
    split: First[Split] = "test"
    """Split to measure on."""
    clips: First[NumClips] = NUM_CLIPS
    """Clips of each video, uniformly spaced; auto takes as many of 20 as the answer needs."""
    clips_curve: bool = False
    """Print the accuracy with 1, 2, 5, 10, 20 and auto clips, from the same scores."""
    run: First[tuple[Path, ...]] = ()
    """Folder of a training run: take data, split rule and weights from it, write the results to its
    folder RUN/SPLIT, and renew its report. With several, such as UCF101's three splits, print mean
    and spread too."""
    out: First[Path | None] = None
    """Folder for metrics.json, scores.csv, scores.npz, per_class.csv, confusion.csv, confusion.png
    and the page report.html; with several runs, for a folder of each. By default the figures
    are only printed."""
    protocol: First[Name] = "weights"
    """Clips and sizes: those of the weights and of --clips, or 20 clips of 16 frames at 160 px,
    from 182x242 (paper) or, as the authors extract features, from a short side of 162."""
    frames: First[Frames] = "ordered"
    """Order of the frames in each clip; still repeats the middle one. With all, a table shows
    whether the network uses the order."""
    crops: Crops = 1
    """Crops of each clip whose scores are averaged.
    1: the center.
    3: the center and both ends of the longer side.
    10: the center, the corners, and the mirrored copies of these."""
    mirror: bool = False
    """Average each crop with its mirrored copy. Not for classes that differ in left and right."""
    seed: int = 0
    """Seed of --frames shuffled."""
    batch_size: First[int | None] = None
    """Clips on the device at once; by default what suits it, such as 1 clip of
    16x160x160 on a CPU."""
    backend: BackendChoice = "auto"
    """What computes the network; auto takes an exported file's, or compiles if that saves time."""
    workers: int | None = None
    """Threads that decode while the network computes; 0 decodes in turn with it. By default what
    suits the machine."""
    compute: DeviceOptions = field(default_factory=DeviceOptions)
    on_bad_video: BadVideoPolicy = "error"
    """What to do with a video that cannot be read: stop, or skip it and report it."""
