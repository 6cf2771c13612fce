"""The options of `p3d predict`."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path

from p3d.inference.backends.names import BackendChoice
from p3d.inference.clip_plan import NumClips
from p3d.system.markers import First, Positional
from p3d.system.options import DeviceOptions


@dataclass(frozen=True)
class PredictOptions:
    """Print the most likely classes of videos. Exit code 0: all were read; 2: some were not."""

    videos: Positional[tuple[str | Path, ...]]
    """Video files, folders of videos or of one video's frames, lists (.txt, one path a line; .csv
    with a column path; - for stdin), or patterns in quotes ('clips/**/*.mp4')."""
    weights: Path
    """Weights in any format that p3d reads, a run's folder, or a file of `p3d export`. A .pt2 is a
    program; use only one that you trust. Two files, of networks for pictures and for optical
    flow, answer together."""
    fusion: First[str | None] = None
    """For two networks: the folder of `p3d fuse --out`, whose mean and weight are taken, or the
    weight of the second network, from 0 to 1. By default 0.5."""
    top: First[int | None] = None
    """Print a table of this many classes for each video. By default a table of 5 for a single
    video, and one line a video for several."""
    threshold: First[float] = 0.0
    """Answer "unknown" if the best class is less probable than this, from 0 to 1."""
    out: First[Path | None] = None
    """File for the answers, .csv or .jsonl; by default they are only printed. The same command goes
    on after an interruption."""
    json: First[bool] = False
    """Print one JSON object a line instead of text."""
    clips: First[NumClips] = 20
    """Clips of each video, uniformly spaced; auto takes as many of 20 as the answer needs."""
    batch_size: int | None = None
    """Clips on the device at once; by default what suits it, such as 1 clip of
    16x160x160 on a CPU."""
    backend: BackendChoice = "auto"
    """What computes the network; auto takes an exported file's, or compiles if that saves time."""
    workers: int | None = None
    """Threads that decode while the network computes; 0 decodes in turn with it. By default what
    suits the machine."""
    frame_rate: float | None = None
    """Frames per second of folders of frames, for weights that take frames at a rate; 25 are
    assumed by default."""
    compute: DeviceOptions = field(default_factory=DeviceOptions)
