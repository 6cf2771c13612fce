"""Reading and decoding packets with PyAV, of damaged files too."""

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
from p3d.system.resources import raise_file_limit_error
from p3d.video.remote import Source, name_of

MAX_PIXELS = 2**25
"""Limit of a frame's size in pixels; 8K video just fits. A file of a few kilobytes can declare
frames of gigabytes, and a process that runs out of memory cannot report which file it was."""

FORMATS = (
    "4xm,amv,apng,asf,asf_o,av1,avi,avs2,avs3,bink,cavsvideo,dhav,dirac,dnxhd,dv,film_cpk,flic,flv,"
    "gif,gxf,h261,h263,h264,hevc,idcin,ipu,ivf,kux,live_flv,lxf,m4v,matroska,mjpeg,mov,mpeg,mpegts,"
    "mpegvideo,mxf,nsv,nut,nuv,obu,ogg,pva,rm,roq,smk,swf,ty,vc1,vc1test,vivo,vvc,wtv,yuv4mpegpipe"
)
"""FFmpeg's names of the formats that hold video themselves. Playlists, which open other files and
may wait for a pipe, are not among them, nor are single pictures."""

_OPEN_OPTIONS = {
    "protocol_whitelist": "file",
    "format_whitelist": FORMATS,
    # Also for the frames that FFmpeg decodes to find out about the streams.
    "max_pixels": str(MAX_PIXELS),
}
# PyAV 19 ignores malformed metadata by itself.
IGNORE_METADATA_ERRORS: dict[str, Any] = (
    {"metadata_errors": "ignore"} if int(av.__version__.split(".")[0]) < 19 else {}
)
_THUMBNAILS = Disposition.attached_pic | Disposition.timed_thumbnails | Disposition.still_image

# Lets FFmpeg skip the packets of other streams; not in older PyAV.
_DISCARD: Any = getattr(av.stream, "Discard", None)

_Packets: TypeAlias = "Generator[Packet[VideoStream]]"


def open_stream(
    source: Source, container_format: str | None = None
) -> tuple[InputContainer, VideoStream]:
    """Open the video stream of a file, for decoding with one thread.

    Pictures and thumbnails are skipped. If there are several videos, it is the first of those with
    the largest frames.

    Args:
        source: The file, or where it is.
        container_format: FFmpeg's name of the container format, which saves detecting it.

    Raises:
        BadVideoError: The file is not a video, has no video stream that FFmpeg can decode, or its
            frames are too large.
    """
    try:
        container = av.open(
            # "file:" keeps a colon in the name from being parsed as a protocol.
            f"file:{source}" if isinstance(source, Path) else source.open(),
            format=container_format,
            options=_OPEN_OPTIONS,
            **IGNORE_METADATA_ERRORS,
        )
    except (av.FFmpegError, ValueError) as error:
        raise_file_limit_error(error)
        # Without the path and error number that PyAV adds.
        message = getattr(error, "strerror", None) or error
        reason = f"not a video that FFmpeg can read ({message})"
        raise BadVideoError(name_of(source), reason) from error
    return container, choose_stream(name_of(source), container)


def choose_stream(path: Path | str, container: InputContainer) -> VideoStream:
    """Return the video stream to decode, with one thread; close the container if there is none.

    Raises:
        BadVideoError: There is no video stream that FFmpeg can decode, or its frames are too large.
    """
    try:
        stream = _find_stream(path, container)
    except BadVideoError:
        container.close()
        raise
    # Loader workers occupy all cores already; more threads would only add overhead.
    stream.codec_context.thread_count = 1
    stream.codec_context.options = {"max_pixels": str(MAX_PIXELS)}
    if _DISCARD is not None:
        for other in container.streams:
            if other is not stream:
                other.discard = _DISCARD.all
    return stream


def _find_stream(path: Path | str, container: InputContainer) -> VideoStream:
    streams = [s for s in container.streams.video if not s.disposition & _THUMBNAILS]
    if not streams:
        raise BadVideoError(path, "has no video stream")
    stream = max(streams, key=_frame_area)  # the first of equals
    if stream.codec_context is None:
        raise BadVideoError(path, "its video codec is unknown to FFmpeg")
    check_size(path, stream.codec_context.width, stream.codec_context.height)
    return stream


def _frame_area(stream: VideoStream) -> tuple[bool, int]:
    """Return a stream's number of pixels, after whether it may have more than one frame."""
    context = stream.codec_context
    return stream.frames != 1, context.width * context.height if context is not None else 0


def check_size(path: Path | str, width: int, height: int) -> None:
    """Check the size of a video's frames.

    Raises:
        BadVideoError: They have more than `MAX_PIXELS`.
    """
    if width * height > MAX_PIXELS:
        raise BadVideoError(
            path, f"its frames are {width}x{height}, more than {MAX_PIXELS:,} pixels"
        )


def numbered_packets(
    packets: Iterable[Packet[VideoStream]],
    stream: VideoStream,
    *,
    unpack: bool = False,
    first: int = 0,
) -> Iterator[tuple[int, Packet[VideoStream]]]:
    """Yield pairs `(number, packet)` from `first`, optionally unpacked to one frame each."""
    if unpack:
        # The filter returns one packet for each input packet, so the numbers stay the same.
        unpacker = BitStreamFilterContext("mpeg4_unpack_bframes", stream)
        packets = chain.from_iterable(map(unpacker.filter, packets))
    return enumerate(packets, first)


def demux(container: InputContainer, stream: VideoStream) -> Iterator[Packet[VideoStream]]:
    """Yield packets up to the end of the file, or to where it is cut off.

    Skips empty packets: they hold no frame and would flush the decoder.
    """
    # Closed explicitly: PyAV 18 leaks about 250 bytes for each generator that is not exhausted, and
    # reading a clip rarely exhausts it.
    with closing(cast(_Packets, container.demux(stream))) as packets:
        try:
            for packet in packets:
                if packet.size:
                    yield packet
        except av.FFmpegError:
            return


def decode(context: VideoCodecContext, packet: Packet[VideoStream] | None) -> list[VideoFrame]:
    """Decode a packet, or flush the decoder (None); return no frames if it is damaged."""
    try:
        return context.decode(packet)
    except av.FFmpegError:
        return []
