"""Options of `p3d prepare ucf101`, `check` and `frames`."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal

from p3d.archive.options import ClusterOptions
from p3d.data.layouts import DataOptions
from p3d.errors import UserError
from p3d.system.machine import num_cores
from p3d.system.markers import First, Positional


def check_workers(workers: int) -> None:
    """Check a number of threads or processes.

    Raises:
        UserError: It is negative.
    """
    if workers < 0:
        raise UserError(f"--workers {workers}: must be at least 0")


def most_workers(workers: int, cluster: ClusterOptions) -> int | None:
    """Return the most processes on a CPU: one per core of this machine, or all that Ray has."""
    return workers or (num_cores() if cluster.ray is None else None)


LinkMode = Literal["hard", "symbolic", "copy"]
Validation = Literal["public", "none"]


@dataclass(frozen=True)
class Remote:
    """Addresses and settings for --download, which needs the program curl."""

    archive_url: str = "https://www.crcv.ucf.edu/data/UCF101/UCF101.rar"
    """Archive of the videos (6.5 GiB)."""
    lists_url: str = (
        "https://www.crcv.ucf.edu/data/UCF101/UCF101TrainTestSplits-RecognitionTask.zip"
    )
    """Zip file of the official lists."""
    archive_sha256: str = ""
    """Expected SHA-256 of the archive. By default only its size and its own checksums are used."""
    lists_sha256: str = ""
    """Expected SHA-256 of the lists. By default not checked."""
    insecure: bool = False
    """Do not verify the server's certificate."""
    tries: int = 8
    """Give up after this many attempts in a row that received nothing."""
    pause: float = 1.0
    """Seconds before the second attempt, doubled for each further one, at most 60."""


@dataclass(frozen=True)
class Ucf101Options:
    """Arrange UCF101 for training as OUT/SPLIT/CLASS/CLIP.avi, with validation lists."""

    source: Path
    """UCF101.rar, a zip of it, or a folder with its clips. It is not changed.
    Clips in a folder are AVI files, or folders of JPEG frames, at any depth."""
    out: First[Path] = Path("ucf101")
    """Output folder. Each --fold and --validation needs its own."""
    lists: First[Path | None] = None
    """Official lists, a folder or an archive. By default searched for in and next to the source."""
    link: First[LinkMode] = "hard"
    """How to add clips from a source folder.
    Hard links use no space and survive the deletion of the source.
    On another disk they become copies."""
    fold: First[Literal[1, 2, 3]] = 1
    """Official split to arrange into folders. The lists of all three are written."""
    validation: First[Validation] = "public"
    """Clips to move from the training to the validation split.
    public: groups 8-10 (fold 1), 1-3 (fold 2), 22-24 (fold 3), as in lists in public use.
    none: no validation split."""
    dry_run: First[bool] = False
    """Print the counts and write nothing."""
    allow_missing: First[bool] = False
    """Skip listed clips that are missing from the source, instead of stopping."""
    workers: First[int] = 0
    """Threads that link or copy; 0: one per core."""
    download: First[bool] = False
    """First download the archive and the lists; --source is the folder for them."""
    remote: Remote = field(default_factory=Remote)

    def __post_init__(self) -> None:
        check_workers(self.workers)


@dataclass(frozen=True)
class CheckOptions:
    """Check a data set before training: decode all videos, look for missing and duplicate ones.
    The set needs no splits yet."""

    data: Positional[DataOptions]
    frames: First[Literal["ends", "all"]] = "ends"
    """Frames of each video to decode: the first and the last, or all."""
    clip_frames: int = 16
    """Frames of a clip, --num-frames of the recipe. Videos with fewer are reported as short: they
    can be used, the last frame is repeated. Videos with more than 80 times as many are long."""
    out: First[Path | None] = None
    """Write a manifest of all readable videos, with their numbers of frames and frame rates;
    by default none is written."""
    findings: First[Path | None] = None
    """Write all findings to a CSV file; by default only the report is printed, which shows ten of
    each kind."""
    workers: First[int] = 0
    """Processes; 0: one per core."""

    def __post_init__(self) -> None:
        check_workers(self.workers)
        if self.clip_frames < 1:
            raise UserError(f"--clip-frames {self.clip_frames}: must be at least 1")


@dataclass(frozen=True)
class FramesOptions:
    """Convert videos into folders of JPEG frames."""

    data: DataOptions
    out: Path
    """Output folder, a data set of OUT/SPLIT/CLASS/VIDEO/VIDEO-0001.jpg and so on, without SPLIT if
    nothing divides the videos. A file with segments is written once, as a whole.
    It may be the folder of the videos if that is laid out like UCF101."""
    short_side: First[int | None] = None
    """Shrink frames so that their shorter side has this many pixels. Never enlarges.
    By default frames keep their size."""
    quality: First[int] = 95
    """JPEG quality, 1 to 100. Finished folders are kept when it changes."""
    workers: First[int] = 0
    """Processes; 0: one per core."""
    cluster: ClusterOptions = field(default_factory=ClusterOptions)

    def __post_init__(self) -> None:
        if not 1 <= self.quality <= 100:
            raise UserError(f"--quality {self.quality}: must be 1 to 100")
        if self.short_side is not None and self.short_side < 1:
            raise UserError(f"--short-side {self.short_side}: must be at least 1")
        check_workers(self.workers)
