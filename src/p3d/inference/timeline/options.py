"""The options of `p3d timeline`."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Annotated, Literal

from p3d.archive.options import ClusterOptions, PoolOptions
from p3d.errors import UserError
from p3d.inference.arguments import Item, path_of
from p3d.inference.backends.names import BackendChoice
from p3d.inference.timeline import strip
from p3d.inference.timeline.calibrated import CutArguments
from p3d.inference.timeline.frames import check_fps
from p3d.inference.timeline.writers import check_file, check_out
from p3d.system.files import check_no_input, check_place
from p3d.system.markers import First, Heading, Positional
from p3d.system.options import DeviceOptions

TimelineFormat = Literal["json", "csv", "tsv", "vtt", "srt", "eaf"]


@dataclass(frozen=True)
class LiveOptions:
    """How a live stream is read."""

    stall: Annotated[float, Heading("live streams")] = 10.0
    """Seconds without data after which a live stream is lost; a pipe is waited for."""
    retry: float = 60.0
    """Seconds for which a lost stream is tried again, after 1, 2, 4, ... and at most 30 s."""
    drop: Literal["auto", "yes", "no"] = "auto"
    """Whether the oldest windows are dropped where the network is too slow; auto drops those of
    cameras, and lets pipes and downloads (http, tcp) wait."""

    def check(self) -> None:
        """Raise UserError if a value is out of range."""
        if not 0 < self.stall < float("inf"):
            raise UserError(f"--stall is {self.stall:g}; give seconds, more than 0")
        if not self.retry >= 0:
            raise UserError(f"--retry is {self.retry:g}; give seconds, 0 or more")


@dataclass(frozen=True)
class TimelineOptions:
    """Find when a network sees its classes in long videos or a live stream. Exit code 2: some were
    not read."""

    videos: Positional[tuple[str | Path, ...]]
    """Video files, folders of videos or of one video's frames, lists (.txt, one path a line; .csv
    with a column path), or patterns in quotes ('films/**/*.mp4'). Or one live stream: an address
    (rtsp://..., http://...), a device (/dev/video0), a named pipe, or - for stdin."""
    weights: Path
    """Weights in any format that p3d reads, a run's folder, or a file of `p3d export`. A .pt2 is a
    program; use only one that you trust. Two files, of networks for pictures and for optical
    flow, answer together."""
    fusion: First[str | None] = None
    """For two networks: the folder of `p3d fuse --out`, whose mean and weight are taken, or the
    weight of the second network, from 0 to 1. By default 0.5."""
    out: First[Path | None] = None
    """File for the segments: .csv, .tsv, .json (as ActivityNet has it), or for one video .vtt, .srt
    (subtitles) or .eaf (ELAN). Without a suffix, a folder that gets a file for each video, with
    a process for each GPU or MLU. The same command goes on after an interruption."""
    format: TimelineFormat = "json"
    """Format of the files in a folder of --out."""
    annotate: First[Path | None] = None
    """Write an .mp4 of the video with the labels drawn in."""
    strip: First[Path | None] = None
    """Write a picture of the scores over time, .svg or .png."""
    window: First[float | None] = None
    """Seconds of a window, over which the frames of a clip are spread evenly; by default the length
    of a clip at the rate of the weights, or at the video's own if they have none."""
    stride: First[float | None] = None
    """Seconds from one window to the next; by default half a window. With more than a window, what
    lies between is not seen."""
    cut: CutArguments = field(default_factory=CutArguments)
    json: First[bool] = False
    """Print one JSON object a video instead of tables; a live stream always gives JSON lines."""
    windows: bool = False
    """Print the scores of all windows too, in JSON."""
    fps: float | None = None
    """Rate of folders of frames in frames per second; by default 25. Files have their own times."""
    scores: Path | None = None
    """Keep the scores of all windows in this file. The same command with other options for the
    segments takes them from there, and does not run the network again."""
    batch_size: int | None = None
    """Windows on the device at once; by default what suits it, such as 1 of 16x160x160 on a CPU,
    and 1 for a live stream."""
    backend: BackendChoice = "auto"
    """What computes the network; auto takes an exported file's, or compiles if that saves time."""
    workers: int | None = None
    """Threads that decode while the network computes; 0 decodes in turn with it. By default what
    suits the machine."""
    pool: PoolOptions = field(default_factory=PoolOptions)
    cluster: ClusterOptions = field(default_factory=ClusterOptions)
    live: LiveOptions = field(default_factory=LiveOptions)
    compute: DeviceOptions = field(default_factory=DeviceOptions)

    def check(self) -> None:
        """Raise UserError if a value is out of range, or a file cannot be written."""
        if not self.videos:
            raise UserError("no videos were given; give one or more files after the options")
        if self.batch_size is not None and self.batch_size < 1:
            raise UserError(f"--batch-size is {self.batch_size}; give 1 or more")
        self.cut.check()
        self.live.check()
        check_fps(self.fps)
        if self.out is not None and not self.has_folder:
            check_out(self.out)
        if self.has_folder:
            self._check_folder()
        elif self.pool != PoolOptions() or self.cluster != ClusterOptions():
            raise UserError("--processes and --ray are for --out FOLDER; give one, or omit them")
        elif self.format != "json":
            raise UserError(
                f"--format {self.format} is for --out FOLDER; give a folder, or --out a name that "
                f"ends in .{self.format}"
            )
        if self.scores is not None:
            check_place(self.scores, "--scores")
        for path, flag, suffixes in self._pictures():
            if path is not None:
                check_file(path, flag, suffixes)

    @property
    def has_folder(self) -> bool:
        """Whether each video gets a file in a folder."""
        return self.out is not None and (self.out.is_dir() or not self.out.suffix)

    def _check_folder(self) -> None:
        """Raise UserError if an option does not fit a folder of files."""
        others = {
            "--annotate": self.annotate is not None,
            "--strip": self.strip is not None,
            "--scores": self.scores is not None,
            "--json": self.json,
            "--windows": self.windows,
        }
        for flag, is_given in others.items():
            if is_given:
                raise UserError(
                    f"{flag}: --out {self.out} is a folder of many videos' files; omit it, or give "
                    "--out a name with a suffix"
                )

    def _pictures(self) -> tuple[tuple[Path | None, str, tuple[str, ...]], ...]:
        """Return the files that show a single video: path, option and suffixes."""
        return (
            (self.annotate, "--annotate", (".mp4",)),
            (self.strip, "--strip", strip.SUFFIXES),
        )

    def check_items(self, items: Sequence[Item]) -> None:
        """Raise UserError if a file cannot show so many, or such, videos, or would replace one."""
        if self.out is not None and not self.has_folder:
            check_out(self.out, len(items))
        for path, flag, _ in self._pictures():
            if path is not None and len(items) != 1:
                raise UserError(f"{flag} is for one video, but there are {len(items)}; give one")
        files = {flag: path for path, flag, _ in self._pictures()} | {"--out": self.out}
        inputs = [path_of(item) for item in items] + [Path(word) for word in self.videos]
        for flag, path in files.items():
            if path is not None:
                check_no_input(path, flag, inputs)
        for item in items:
            if self.annotate is not None and isinstance(item, Path) and item.is_dir():
                raise UserError(f"--annotate is for video files; {item} is a folder")

    def check_live(self) -> None:
        """Raise UserError if an option is for files only, or there are several streams."""
        if len(self.videos) > 1:
            raise UserError("a live stream is watched alone; give it without other videos")
        if self.has_folder:
            raise UserError(f"--out {self.out}: is a folder; give a file for a live stream")
        files = {"--annotate": self.annotate, "--strip": self.strip, "--scores": self.scores}
        for flag, path in files.items():
            if path is not None:
                raise UserError(f"{flag} is for files, which end; omit it for a live stream")
