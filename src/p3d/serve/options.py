"""The options of `p3d serve`, and its limits."""

from __future__ import annotations

import re
from dataclasses import dataclass, field
from pathlib import Path
from typing import Annotated, NamedTuple

from p3d.errors import UserError
from p3d.inference.backends.names import BackendChoice
from p3d.inference.clip_plan import NumClips
from p3d.system.markers import First, Heading
from p3d.system.options import DeviceOptions
from p3d.system.spelling import ask_meant

_MIB = 2**20
_NAME = re.compile(r"[^/:\s]+|[0-9a-fA-F]*:[0-9a-fA-F]*:[0-9a-fA-F:.]*")
"""Of a machine: a name, or an address of IPv4 or IPv6; no port."""
_ORIGIN = re.compile(r"[\w.+-]+://[^/\s]+")


class Limit(NamedTuple):
    """A limit as `GET /v1/model` states it.

    Attributes:
        value: The largest value that is taken; None where the system does not enforce it.
        unit: Its unit.
        status: HTTP status of a request that exceeds it.
    """

    value: float | None
    unit: str
    status: int


@dataclass(frozen=True)
class Limits:
    """What a request may take."""

    max_bytes: Annotated[int, Heading("limits")] = 100 * _MIB
    """Size of an uploaded file in bytes; beyond it, status 413."""
    max_seconds: float = 600.0
    """Length of a video in seconds; beyond it, status 422."""
    max_pixels: int = 4096 * 2304
    """Pixels of a frame; beyond it, status 422."""
    max_frames: int = 36_000
    """Frames of a video; beyond it, status 422."""
    max_queue: int = 64
    """Requests accepted and not yet answered; beyond it, status 503."""
    max_uploads: int = 32
    """Uploads at once; beyond it, status 429."""
    upload_seconds: float = 60.0
    """Time that an upload may take; beyond it, status 408."""
    request_seconds: float = 60.0
    """Time from the end of the upload to the answer; beyond it, status 504."""
    max_jobs: int = 16
    """Timelines that wait or are made; beyond it, status 503."""
    job_seconds: float = 3600.0
    """Time that a timeline may take; beyond it, its problem has status 504."""
    decoder_memory: int = 1024
    """MiB that decoding a video may take; beyond it, status 502, or 422 where FFmpeg goes on and
    finds no frames. Enforced on Linux only."""

    def check(self) -> None:
        """Check that all limits are positive.

        Raises:
            UserError: One is not.
        """
        for name, value in vars(self).items():
            if not value > 0:
                raise UserError(f"--{name.replace('_', '-')} is {value}; give more than 0")

    def describe(self, *, memory: bool) -> dict[str, Limit]:
        """Return what `GET /v1/model` states; `memory`: whether that limit is enforced."""
        return {
            "bytes": Limit(self.max_bytes, "bytes", 413),
            "seconds": Limit(self.max_seconds, "seconds of a video", 422),
            "pixels": Limit(self.max_pixels, "pixels of a frame", 422),
            "frames": Limit(self.max_frames, "frames of a video", 422),
            "queue": Limit(self.max_queue, "unanswered requests", 503),
            "uploads": Limit(self.max_uploads, "uploads at once", 429),
            "upload_seconds": Limit(self.upload_seconds, "seconds", 408),
            "request_seconds": Limit(self.request_seconds, "seconds", 504),
            "jobs": Limit(self.max_jobs, "timelines that wait or are made", 503),
            "job_seconds": Limit(self.job_seconds, "seconds", 504),
            "decoder_memory": Limit(self.decoder_memory if memory else None, "MiB", 502),
        }


@dataclass(frozen=True)
class ServeOptions:
    """Predict the classes of videos over HTTP, with a page to try it on. SIGTERM stops it."""

    weights: Path
    """Weights in any format that p3d reads, a run's folder, or a file of `p3d export`. A .pt2 is a
    program; use only one that you trust."""
    host: First[str] = "127.0.0.1"
    """Address to listen on; 0.0.0.0 for all of this machine's, which needs --token-file."""
    port: First[int] = 8000
    """Port to listen on; 0 for any free one."""
    token_file: First[Path | None] = None
    """File whose first line is the token that requests must carry (Authorization: Bearer TOKEN)."""
    root: First[Path | None] = None
    """Folder whose videos may be named by path; by default videos can only be uploaded."""
    without_token: bool = False
    """Listen on other addresses than this machine's own without a token."""
    hosts: tuple[str, ...] = ()
    """Further names under which the service is reached, such as that of a proxy in front of it."""
    cors: tuple[str, ...] = ()
    """Origins whose pages may use the service, such as https://example.org; none by default."""
    clips: First[NumClips] = 20
    """Clips of each video, uniformly spaced; auto takes as many of 20 as the answer needs."""
    batch_size: int | None = None
    """Clips on the device at once; by default what suits it."""
    backend: BackendChoice = "auto"
    """What computes the network; auto takes an exported file's, and does not compile weights."""
    window: float = 5.0
    """Milliseconds to wait for clips of other requests while a batch is not full."""
    decoders: int | None = None
    """Processes that decode; by default one per core, at most 8."""
    stop_seconds: float = 30.0
    """After SIGTERM, time in which accepted requests are answered; no others are accepted."""
    limits: Limits = field(default_factory=Limits)
    compute: DeviceOptions = field(default_factory=DeviceOptions)

    def check(self) -> None:
        """Check the values.

        Raises:
            UserError: One is out of range.
        """
        self.limits.check()
        if not 0 <= self.port <= 65535:
            raise UserError(f"--port is {self.port}; give 0 to 65535")
        counts = {"--batch-size": self.batch_size, "--decoders": self.decoders}
        for flag, count in counts.items():
            if count is not None and count < 1:
                raise UserError(f"{flag} is {count}; give 1 or more")
        if not 0 <= self.window <= 1000:
            raise UserError(f"--window is {self.window}; give 0 to 1000 milliseconds")
        if not self.stop_seconds >= 0:
            raise UserError(f"--stop-seconds is {self.stop_seconds:g}; give 0 or more")
        self._check_names()
        if self.root is not None and not self.root.is_dir():
            remedy = ask_meant(self.root, "give the folder of the videos")
            raise UserError(f"--root {self.root}: is no folder; {remedy}")
        if not self.is_local and self.token_file is None and not self.without_token:
            raise UserError(
                f"--host {self.host}: other machines could use the service; give --token-file, or "
                "--without-token if all of them may"
            )

    def _check_names(self) -> None:
        """Check names that would never equal those of a request."""
        for name in self.hosts:
            if not _NAME.fullmatch(name):
                raise UserError(
                    f"--hosts {name}: is no name of a machine; give one such as videos.example"
                )
        for origin in self.cors:
            if not _ORIGIN.fullmatch(origin):
                raise UserError(
                    f"--cors {origin}: is no origin; give one such as https://example.org"
                )

    @property
    def is_local(self) -> bool:
        """Whether only this machine can reach the service."""
        return self.host in ("localhost", "::1") or self.host.startswith("127.")
