"""Live video: network streams, capture devices, pipes and standard input."""

from __future__ import annotations

import errno
import os
import stat
import sys
from collections.abc import Iterator
from contextlib import ExitStack, closing, contextmanager
from dataclasses import dataclass
from io import FileIO
from typing import Any, Literal, cast

import av
from av.container import InputContainer
from av.video.frame import VideoFrame
from av.video.stream import VideoStream

from p3d.errors import BadVideoError
from p3d.video.packets import FORMATS, IGNORE_METADATA_ERRORS, MAX_PIXELS, choose_stream, decode
from p3d.video.stream import FrameStream

Kind = Literal["network", "download", "device", "pipe"]

_DOWNLOADS = ("http", "https", "tcp")
"""Protocols that wait for a slow reader, and whose end is the end of the video."""
_NETWORKS = ("rtsp", "rtsps", "rtp", "udp", "srt", "rtmp", "rtmps")
_PROTOCOLS = ",".join((*_NETWORKS, *_DOWNLOADS, "rtmpt", "tls", "crypto", "httpproxy"))
_OPTIONS = {
    "protocol_whitelist": _PROTOCOLS,
    "format_whitelist": f"{FORMATS},rtsp,rtp,sdp,hls,mpjpeg,rtp_mpegts,video4linux2,v4l2",
    "max_pixels": str(MAX_PIXELS),
}
_DEVICE_FORMAT = "v4l2"


class StreamLost(Exception):
    """A live stream cannot be opened, or has broken off; it may come back."""


@dataclass(frozen=True)
class LiveSource:
    """Where a live video comes from.

    Attributes:
        name: An address, a device, a named pipe, or `-` for standard input.
        kind: What it is.
    """

    name: str
    kind: Kind

    @property
    def can_wait(self) -> bool:
        """Whether it waits for a slow reader, rather than lose frames or fall behind."""
        return self.kind in ("pipe", "download")

    @property
    def ends(self) -> bool:
        """Whether the end of its data is the end of the video, rather than a lost connection."""
        return self.can_wait

    @contextmanager
    def open(self, stall: float) -> Iterator[FrameStream]:
        """Open the source for a `with` block, once more if it was open before.

        Reading its frames raises as this does.

        Args:
            stall: Seconds without data after which it is lost; not for pipes, which just wait.

        Raises:
            StreamLost: Nothing answers, nothing comes, or the connection has broken off.
            BadVideoError: What comes is no video.
        """
        with ExitStack() as stack:
            with _lost_by_errors(stall):
                container = self._open_pipe(stack) if self.kind == "pipe" else self._open(stall)
            stack.callback(container.close)
            stream = choose_stream(self.name, container)
            with _lost_by_errors(stall):
                # Without a length, FFmpeg takes the end of an answer for an error.
                may_fail = self.kind == "download" and container.size <= 0
                decoded = _decoded(container, stream, stall, ends_by_error=may_fail)
                frames = FrameStream(self.name, stream, decoded)
            yield frames

    def _open_pipe(self, stack: ExitStack) -> InputContainer:
        # Unbuffered: a read returns what is there, and does not wait for more.
        file: Any
        if self.name == "-":
            file = cast(Any, sys.stdin.buffer).raw
        else:
            file = stack.enter_context(FileIO(self.name))
        try:
            container: InputContainer = av.open(file, options=_OPTIONS, **IGNORE_METADATA_ERRORS)
        except (av.FFmpegError, ValueError) as error:
            message = getattr(error, "strerror", None) or error
            reason = f"sends no video that FFmpeg can read ({message})"
            raise BadVideoError(self.name, reason) from error
        return container

    def _open(self, stall: float) -> InputContainer:
        options = dict(_OPTIONS)
        if self.name.startswith("rtsp"):
            options["rtsp_transport"] = "tcp"
        try:
            container: InputContainer = av.open(
                self.name,
                format=_DEVICE_FORMAT if self.kind == "device" else None,
                options=options,
                timeout=(stall, stall),
                **IGNORE_METADATA_ERRORS,
            )
        except av.error.InvalidDataError as error:
            raise BadVideoError(self.name, f"sends no video ({error.strerror})") from error
        except ValueError as error:
            message = getattr(error, "strerror", None) or error
            raise BadVideoError(self.name, f"cannot be an address ({message}); check it") from error
        return container


def find_live_source(name: str, *, is_address: bool) -> LiveSource | None:
    """Return the live source of this name; None if it is a file, a folder or absent.

    Args:
        name: A path, an address, or `-`.
        is_address: Whether it is an address.

    Raises:
        BadVideoError: The protocol of the address is not known, or stdin is a terminal.
    """
    if name == "-":
        if sys.stdin is None or sys.stdin.isatty():
            raise BadVideoError(name, "stdin is a terminal; pipe a video into it")
        return LiveSource(name, "pipe")
    if is_address:
        protocol = name.partition(":")[0].lower()
        if protocol in _DOWNLOADS:
            return LiveSource(name, "download")
        if protocol in _NETWORKS:
            return LiveSource(name, "network")
        known = ", ".join((*_NETWORKS, *_DOWNLOADS))
        raise BadVideoError(name, f"{protocol} is no protocol for live video; use one of {known}")
    try:
        mode = os.stat(name).st_mode  # noqa: PTH116 (a name may be an address)
    except (OSError, ValueError):
        return LiveSource(name, "device") if name.startswith("/dev/video") else None
    if stat.S_ISCHR(mode):
        return LiveSource(name, "device")
    return LiveSource(name, "pipe") if stat.S_ISFIFO(mode) else None


def _decoded(
    container: InputContainer, stream: VideoStream, stall: float, *, ends_by_error: bool
) -> Iterator[VideoFrame]:
    """Yield frames up to the end of the data, which may look like an error of reading."""
    with closing(cast(Any, container.demux(stream))) as packets:
        while True:
            with _lost_by_errors(stall):
                try:
                    packet = next(packets, None)
                except av.FFmpegError as error:
                    if not ends_by_error or error.errno != errno.EIO:
                        raise
                    packet = None
            if packet is None:
                break
            if packet.size:
                yield from decode(stream.codec_context, packet)
    yield from decode(stream.codec_context, None)


@contextmanager
def _lost_by_errors(stall: float) -> Iterator[None]:
    try:
        yield
    except av.error.ExitError as error:
        raise StreamLost(f"nothing came for {stall:g} s") from error
    except (av.FFmpegError, OSError) as error:
        raise StreamLost(error.strerror or str(error)) from error
