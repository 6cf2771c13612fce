"""What the ways of preparing data can be told. Kept apart, for a help page to be quick to show."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path
from typing import Annotated, Literal

import tyro

from p3d.data.layouts import DataOptions
from p3d.errors import UserError

LinkMode = Literal["hard", "symbolic", "copy"]
Validation = Literal["public", "none"]


@dataclass(frozen=True)
class Remote:
    """Where UCF101 is to be had."""

    archive_url: str = "https://www.crcv.ucf.edu/data/UCF101/UCF101.rar"
    """Archive of clips (6.5 GiB)."""
    lists_url: str = (
        "https://www.crcv.ucf.edu/data/UCF101/UCF101TrainTestSplits-RecognitionTask.zip"
    )
    """Official lists."""
    archive_sha256: str = ""
    """SHA-256 that the archive must have; empty: its size and its own checksums decide."""
    lists_sha256: str = ""
    """SHA-256 that the lists must have."""
    insecure: bool = False
    """Do not check the server's certificate."""
    tries: int = 8
    """Give a file up after so many attempts in a row that brought nothing."""
    pause: float = 1.0
    """Seconds before the second attempt; doubled for each further one, up to a minute."""


@dataclass(frozen=True)
class Ucf101Options:
    """Lay UCF101 out for training: OUT/SPLIT/CLASS/CLIP.avi, and the lists of all three splits."""

    source: Path
    """UCF101.rar, a zip of it, or a folder with the .avi files at any depth, or with a folder of
    JPEG frames for each video that is not there. Stays as it is."""
    out: Path = Path("ucf101")
    """Folder to make. Another fold or another kind of validation needs another folder."""
    lists: Path | None = None
    """Official lists: a folder or a zip. By default looked for in and beside the source."""
    link: LinkMode = "hard"
    """How files of a source folder get there. Hard links take no room and outlive the source;
    across disks they become copies, which is said."""
    fold: Literal[1, 2, 3] = 1
    """Official split that the train, validation and test folders show. The lists of all three
    are always written."""
    validation: Validation = "public"
    """Clips held out of the training list: 'public' takes groups 8-10 (split 1), 1-3 (split 2),
    22-24 (split 3); 'none' trains on the whole official list."""
    dry_run: bool = False
    """Only count and report; write nothing."""
    allow_missing: bool = False
    """Go on with the clips that are there, when some that the lists name are not."""
    workers: int = 0
    """Threads that link or copy; 0: one a processor."""
    download: bool = False
    """Download the archive and the lists first; --source is the folder to put them into."""
    remote: Remote = field(default_factory=Remote)


@dataclass(frozen=True)
class CheckOptions:
    """Look a data set over: do all videos decode, and is everything there?"""

    data: Annotated[DataOptions, tyro.conf.PositionalRequiredArgs]
    frames: Literal["ends", "all"] = "ends"
    """Frames to decode of each video: the first and the last, or all."""
    clip_frames: int = 16
    """Videos with fewer frames are reported as short. They do work: the last frame is held."""
    out: Path | None = None
    """Manifest to write, with the number of frames and the rate of every sound video."""
    findings: Path | None = None
    """CSV file to write, with a row for each thing found, where the report names ten of a kind."""
    workers: int = 0
    """Threads; 0: one a processor."""


@dataclass(frozen=True)
class FramesOptions:
    """Turn videos into folders of JPEG frames."""

    data: DataOptions
    out: Path
    """Folder to make, OUT/SPLIT/CLASS/VIDEO/VIDEO-0001.jpg and so on. It can be trained on as it
    is. The data set's own folder will do, if laid out like UCF101."""
    short_side: int | None = None
    """Scale frames down so that the shorter side has this many pixels. Never up."""
    quality: int = 95
    """JPEG quality, 1 to 100. Changing it does not make finished folders anew."""
    workers: int = 0
    """Threads; 0: one a processor."""

    def __post_init__(self) -> None:
        if not 1 <= self.quality <= 100:
            raise UserError(f"--quality {self.quality}: must be 1 to 100")
        if self.short_side is not None and self.short_side < 1:
            raise UserError(f"--short-side {self.short_side}: must be at least 1")


@dataclass(frozen=True)
class FlowOptions:
    """Compute the optical flow of videos, for flow networks (needs the extra `flow`)."""

    data: DataOptions
    out: Path
    """Folder to make, OUT/SPLIT/CLASS/VIDEO.mkv: a data set for `p3d train --modality flow`."""
    short_side: int = 256
    """Scale frames down, never up, so that the shorter side has this many pixels before flow is
    computed; it is then stored at that size, in pixels of that size. Half takes about a third of
    the time. Trained weights remember it."""
    workers: int = 0
    """Threads; 0: one a processor."""

    def __post_init__(self) -> None:
        if self.short_side < 16:
            raise UserError(f"--short-side {self.short_side}: must be at least 16")
