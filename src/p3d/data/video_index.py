"""Where each frame of a video file lies: the map from frame number to packet.

A frame's number is its place in presentation order in a decode of the whole file. Timestamps alone
do not give it: AVI files carry none worth the name, XviD packs two pictures in one packet, headers
count wrongly. So the packets are read once without decoding, and the order follows from

* MPEG-4 part 2 (XviD, DivX, FMP4): the picture types. A picture other than B is shown after the
  B pictures that follow it, whatever the timestamps say;
* codecs that put one picture in one packet: the presentation timestamps, if all are there;
* anything else, or a file with a flaw in it: a decode of the whole file.

Every packet is numbered in file order, and the decoder carries that number through to the frame in
place of the timestamp, so that a frame is known by what it is, not by when it came out.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from contextlib import closing
from dataclasses import dataclass, replace
from fractions import Fraction
from itertools import chain
from pathlib import Path
from typing import NamedTuple

import av
import numpy as np
from av.bitstream import BitStreamFilterContext
from av.container import InputContainer
from av.packet import Packet
from av.stream import Disposition
from av.video.codeccontext import VideoCodecContext
from av.video.frame import VideoFrame
from av.video.stream import VideoStream
from numpy.typing import NDArray

from p3d.errors import BadVideoError

# One packet, one frame. Not VP8 (hidden frames) nor MPEG-2 (a packet may hold one field).
_ONE_PICTURE_A_PACKET = frozenset({"h264", "hevc", "av1", "vp9", "mjpeg"})

_VOP_START = b"\x00\x00\x01\xb6"
_VOP_I, _VOP_B = 0, 2
_NO_VOP = -1
# A picture that is "not coded" (show the last one again) fits in this, and the decoder gives no
# frame for it. So may a coded picture of very few blocks: such files are decoded to find out.
_MAX_EMPTY_VOP_BYTES = 8


class PacketFacts(NamedTuple):
    """What one packet says of itself without being decoded."""

    pts: int | None
    dts: int | None
    pos: int | None
    is_key: bool
    is_sound: bool
    is_shown: bool
    vop: int


@dataclass(frozen=True, eq=False)
class VideoIndex:
    """Frames, packets and places to seek to.

    Attributes:
        num_frames: Frames that a decode of the whole file gives.
        order: int32 (num_frames,), the packet of each frame; None if two frames come from one
            packet, in which case frames can only be counted from the start.
        seek_points: int64 (K, 4), one row for each key packet, in file order: packet, frame,
            timestamp to seek to, position in the file in bytes.
        height: Height of the first frame as coded, in pixels.
        width: Width of the first frame as coded, in pixels.
        matrix: How the picture is to be turned: (a, b, c, d) of the display matrix, each -1, 0, 1.
        fps: Frames a second, on average; 25 if the file does not say.
        decoded: True if the order was found by decoding.
    """

    num_frames: int
    order: NDArray[np.int32] | None
    seek_points: NDArray[np.int64]
    height: int
    width: int
    matrix: tuple[int, int, int, int]
    fps: float
    decoded: bool

    def start_for(self, frame: int) -> int:
        """Return the last key packet from which a decode reaches `frame` exactly."""
        if self.order is None:
            return 0
        # A frame shown before the key picture but stored after it leans on the group before.
        points = self.seek_points
        usable = (points[:, 0] <= self.order[frame]) & (points[:, 1] <= frame)
        return int(points[usable, 0].max(initial=0))

    def timestamp_of(self, packet: int) -> int | None:
        """Return the timestamp to seek to for a key packet; None if there is no seeking to it."""
        hits = self.seek_points[self.seek_points[:, 0] == packet, 2]
        return int(hits[0]) if len(hits) else None

    def corrected(self, order: NDArray[np.int32] | None) -> VideoIndex:
        """Return the index with the order that a decode gave, and no more seeking."""
        return replace(self, order=order, seek_points=self.seek_points[:0], decoded=True)

    def packet_at(self, pos: int | None) -> int | None:
        """Return the number of the key packet at a position in the file, if it is one."""
        hits = self.seek_points[self.seek_points[:, 3] == pos, 0]
        return int(hits[0]) if len(hits) == 1 else None


def open_stream(path: Path) -> tuple[InputContainer, VideoStream]:
    """Open a file at its first video stream, to be decoded by one thread.

    Raises:
        BadVideoError: It is no video, or has no video stream, or none that FFmpeg can decode.
    """
    try:
        # "file:" keeps a colon in the name from being read as a protocol; the whitelist keeps a
        # playlist that is named like a video from opening anything else.
        container = av.open(
            f"file:{path}", metadata_errors="ignore", options={"protocol_whitelist": "file"}
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
    # Loader workers fill the cores already: more threads here only add switching and memory.
    stream.codec_context.thread_count = 1
    return container, stream


def _words(error: Exception) -> str:
    """Return what FFmpeg says of an error, without the path and number that PyAV adds."""
    return str(getattr(error, "strerror", None) or error)


def numbered_packets(
    packets: Iterable[Packet[VideoStream]], stream: VideoStream, first: int = 0
) -> Iterator[tuple[int, Packet[VideoStream]]]:
    """Yield `(number, packet)` with one picture a packet, counting from `first`.

    The filter gives one packet for each that it takes, so numbers before and after it agree.
    """
    unpack = None
    if stream.codec_context.name == "mpeg4":
        unpack = BitStreamFilterContext("mpeg4_unpack_bframes", stream)
    for number, packet in enumerate(packets, first):
        if unpack is None:
            yield number, packet
        else:
            yield from ((number, one) for one in unpack.filter(packet))


def demux(container: InputContainer, stream: VideoStream) -> Iterator[Packet[VideoStream]]:
    """Yield packets up to the end of the file or of what is left of it.

    Empty ones are left out: they hold no picture and would tell the decoder that all is over.
    """
    try:
        yield from (packet for packet in container.demux(stream) if packet.size)
    except av.FFmpegError:
        return


def decode(context: VideoCodecContext, packet: Packet[VideoStream] | None) -> list[VideoFrame]:
    """Return the frames that a packet (or the end, None) brings out; none if it is damaged."""
    try:
        return context.decode(packet)
    except av.FFmpegError:
        return []


def scan_packets(
    container: InputContainer, stream: VideoStream
) -> tuple[list[PacketFacts], VideoFrame | None]:
    """Read all packets of a freshly opened file, decoding no more than the first frame."""
    is_mpeg4 = stream.codec_context.name == "mpeg4"
    facts: list[PacketFacts] = []
    first: VideoFrame | None = None
    for _, packet in numbered_packets(demux(container, stream), stream):
        vop = _vop_type(bytes(packet)) if is_mpeg4 else _NO_VOP
        facts.append(
            PacketFacts(
                pts=packet.pts,
                dts=packet.dts,
                pos=packet.pos,
                is_key=packet.is_keyframe and vop in (_NO_VOP, _VOP_I),
                is_sound=not packet.is_corrupt,
                is_shown=not packet.is_discard,
                vop=vop,
            )
        )
        if first is None:
            first = next(iter(decode(stream.codec_context, packet)), None)
    return facts, first or next(iter(decode(stream.codec_context, None)), None)


def _vop_type(data: bytes) -> int:
    """Return the type of the one picture in an MPEG-4 packet, or _NO_VOP if that is not sure."""
    at = data.find(_VOP_START)
    if at < 0 or len(data) - at - len(_VOP_START) <= _MAX_EMPTY_VOP_BYTES:
        return _NO_VOP
    if data.find(_VOP_START, at + 4) >= 0:
        return _NO_VOP
    return data[at + 4] >> 6


def presentation_order(codec: str, facts: list[PacketFacts]) -> NDArray[np.int32] | None:
    """Return the packet of each frame, or None if only a decode can tell."""
    if not facts or not facts[0].is_key or not all(fact.is_sound for fact in facts):
        return None
    if codec == "mpeg4":
        return _order_by_picture_type([fact.vop for fact in facts])
    if codec in _ONE_PICTURE_A_PACKET:
        return _order_by_timestamp(facts)
    return None


def _order_by_picture_type(vops: list[int]) -> NDArray[np.int32] | None:
    order: list[int] = []
    held: int | None = None
    for number, vop in enumerate(vops):
        if vop == _NO_VOP:
            return None
        if vop == _VOP_B:
            # The decoder drops a B picture that has but one picture to lean on.
            if not order:
                return None
            order.append(number)
            continue
        if held is not None:
            order.append(held)
        held = number
    if held is not None:
        order.append(held)
    return np.asarray(order, np.int32)


def _order_by_timestamp(facts: list[PacketFacts]) -> NDArray[np.int32] | None:
    shown = [(fact.pts, number) for number, fact in enumerate(facts) if fact.is_shown]
    stamps = [pts for pts, _ in shown if pts is not None]
    if len(set(stamps)) != len(shown):
        return None
    order = np.asarray([shown[i][1] for i in np.argsort(stamps)], np.int32)
    # Pictures shown before the first key picture lean on something that is not in the file.
    return order if stamps and min(stamps) >= (facts[0].pts or 0) else None


def seek_table(facts: list[PacketFacts], order: NDArray[np.int32]) -> NDArray[np.int64]:
    """Return the rows of `VideoIndex.seek_points`."""
    rows: list[tuple[int, int, int, int]] = []
    frame_of = {int(packet): frame for frame, packet in enumerate(order)}
    for number, fact in enumerate(facts):
        # Formats differ in which of the two they seek by; too early does no harm.
        stamps = [stamp for stamp in (fact.pts, fact.dts) if stamp is not None]
        if fact.is_key and number in frame_of and stamps and fact.pos is not None:
            rows.append((number, frame_of[number], min(stamps), fact.pos))
    return np.asarray(rows, np.int64).reshape(-1, 4)


def display_matrix(frame: VideoFrame) -> tuple[int, int, int, int]:
    """Return the linear part of a frame's display matrix if it turns or mirrors, else identity."""
    data = frame.side_data.get("DISPLAYMATRIX")
    if data is not None:
        m = np.rint(np.frombuffer(bytes(data), np.int32)[[0, 1, 3, 4]] / 65536).astype(int).tolist()
        if sorted(map(abs, m)) == [0, 0, 1, 1] and abs(m[0] * m[3] - m[1] * m[2]) == 1:
            return m[0], m[1], m[2], m[3]
    return 1, 0, 0, 1


def index_by_decoding(path: Path) -> tuple[int, NDArray[np.int32] | None]:
    """Decode a whole file; return its number of frames, and the packet of each if that is clear."""
    container, stream = open_stream(path)
    with closing(container):
        packets = chain(numbered_packets(demux(container, stream), stream), [(-1, None)])
        tags: list[int | None] = []
        for number, packet in packets:
            if packet is not None:
                packet.pts = number
            tags += [frame.pts for frame in decode(stream.codec_context, packet)]
    known = [tag for tag in tags if tag is not None]
    clear = len(set(known)) == len(tags)
    return len(tags), np.asarray(known, np.int32) if clear else None


def build_index(path: Path, container: InputContainer, stream: VideoStream) -> VideoIndex:
    """Index a freshly opened file.

    Raises:
        BadVideoError: The file holds no frame, or none that decodes.
    """
    facts, first = scan_packets(container, stream)
    if first is None:
        reason = f"none of its {len(facts)} packets decodes" if facts else "holds no frame"
        raise BadVideoError(path, reason)
    order = presentation_order(stream.codec_context.name, facts)
    num_frames, decoded = 0 if order is None else len(order), order is None
    if order is None:
        num_frames, order = index_by_decoding(path)
    return VideoIndex(
        num_frames=num_frames,
        order=order,
        seek_points=seek_table(facts, order if order is not None else np.empty(0, np.int32)),
        height=first.height,
        width=first.width,
        matrix=display_matrix(first),
        fps=float(stream.average_rate or stream.guessed_rate or Fraction(25)),
        decoded=decoded,
    )
