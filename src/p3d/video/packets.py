"""From a video file to packets, and from packets to frames: PyAV with its rough edges taken off."""

from __future__ import annotations

from collections.abc import Generator, Iterable, Iterator
from contextlib import closing
from itertools import chain
from pathlib import Path
from typing import Any, TypeAlias, cast

import av
from av.bitstream import BitStreamFilterContext
from av.container import InputContainer
from av.packet import Packet
from av.stream import Disposition
from av.video.codeccontext import VideoCodecContext
from av.video.frame import VideoFrame
from av.video.stream import VideoStream

from p3d.errors import BadVideoError

MOST_PIXELS = 2**25
"""The largest picture that is taken for one, in pixels: 8K video just fits. A few kilobytes can
claim to be pictures of gigabytes, and a process that runs out of memory cannot say on what."""

# Of streams that are not looked at, only newer PyAV can spare FFmpeg the packets.
_DISCARD: Any = getattr(av.stream, "Discard", None)

_Packets: TypeAlias = "Generator[Packet[VideoStream]]"


def open_stream(
    path: Path, container_format: str | None = None
) -> tuple[InputContainer, VideoStream]:
    """Open a file at its first video stream, to be decoded by one thread.

    Args:
        path: The file.
        container_format: FFmpeg's name of the container, if known: looking for it takes time.

    Raises:
        BadVideoError: It is no video, has no video stream, or none that FFmpeg can decode, or its
            pictures are too large.
    """
    try:
        # "file:" keeps a colon in the name from being read as a protocol; the whitelist keeps a
        # playlist that is named like a video from opening anything else.
        container = av.open(
            f"file:{path}",
            format=container_format,
            metadata_errors="ignore",
            options={"protocol_whitelist": "file"},
        )
    except (av.FFmpegError, ValueError) as error:
        raise BadVideoError(path, f"not a video that FFmpeg can read ({_words(error)})") from error
    streams = [s for s in container.streams.video if s.disposition != Disposition.attached_pic]
    if not streams:
        container.close()
        raise BadVideoError(path, "has no video stream")
    stream = streams[0]
    if stream.codec_context is None:
        container.close()
        raise BadVideoError(path, "its video codec is unknown to FFmpeg")
    try:
        check_size(path, stream.codec_context.width, stream.codec_context.height)
    except BadVideoError:
        container.close()
        raise
    # Loader workers fill the cores already: more threads here only add switching and memory.
    stream.codec_context.thread_count = 1
    if _DISCARD is not None:
        for other in container.streams:
            if other is not stream:
                other.discard = _DISCARD.all
    return container, stream


def check_size(path: Path, width: int, height: int) -> None:
    """Refuse pictures of more than `MOST_PIXELS`.

    Raises:
        BadVideoError: They are as large.
    """
    if width * height > MOST_PIXELS:
        raise BadVideoError(
            path, f"its pictures are {width}x{height}, more than {MOST_PIXELS:,} pixels"
        )


def _words(error: Exception) -> str:
    """Return what FFmpeg says of an error, without the path and number that PyAV adds."""
    return str(getattr(error, "strerror", None) or error)


def numbered_packets(
    packets: Iterable[Packet[VideoStream]],
    stream: VideoStream,
    *,
    unpack: bool = False,
    first: int = 0,
) -> Iterator[tuple[int, Packet[VideoStream]]]:
    """Return pairs `(number, packet)`, counting from `first`, unpacked to one picture each."""
    if unpack:
        # The filter gives one packet for each that it takes: numbers before and after it agree.
        unpacker = BitStreamFilterContext("mpeg4_unpack_bframes", stream)
        packets = chain.from_iterable(map(unpacker.filter, packets))
    return enumerate(packets, first)


def demux(container: InputContainer, stream: VideoStream) -> Iterator[Packet[VideoStream]]:
    """Yield packets up to the end of the file or of what is left of it.

    Empty ones are left out: they hold no picture and would tell the decoder that all is over.
    """
    # Closed by hand: one that is left before its end leaks some 250 bytes otherwise (PyAV 18), and
    # nearly every clip is left early.
    with closing(cast(_Packets, container.demux(stream))) as packets:
        try:
            for packet in packets:
                if packet.size:
                    yield packet
        except av.FFmpegError:
            return


def decode(context: VideoCodecContext, packet: Packet[VideoStream] | None) -> list[VideoFrame]:
    """Return the frames that a packet (or the end, None) brings out; none if it is damaged."""
    try:
        return context.decode(packet)
    except av.FFmpegError:
        return []
