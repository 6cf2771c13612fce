"""The index of a video file: which packet holds each frame.

A frame's number is its position in a decode of the whole file. Timestamps alone do not give it: AVI
files have no usable ones, XviD packs two frames into one packet, headers miscount. So all packets
are read once without decoding, and the order follows from

* the frame types in MPEG-4 part 2 (XviD, DivX, FMP4): an I- or P-frame is shown after the B-frames
  that follow it, whatever the timestamps say;
* the presentation timestamps, if all are there, in codecs with one frame per packet;
* a decode of the whole file for everything else, for H.264 that may hold one field per packet, and
  for files with any irregularity.

Packets are numbered in file order. The decoder carries that number through to the frame in place of
the timestamp, so a frame is identified by its packet, not by when it comes out.
"""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import closing
from dataclasses import dataclass
from fractions import Fraction
from itertools import chain
from typing import NamedTuple

import numpy as np
from av.container import InputContainer
from av.video.codeccontext import VideoCodecContext
from av.video.frame import VideoFrame
from av.video.stream import VideoStream
from numpy.typing import NDArray

from p3d.errors import BadVideoError
from p3d.video.display_matrix import display_matrix
from p3d.video.h264 import may_have_fields
from p3d.video.mpeg4 import VOP_I, is_marked_as_packed, order_by_type, unpacked_types, vop_types
from p3d.video.packets import MAX_PIXELS, check_size, decode, demux, open_stream
from p3d.video.remote import Source, name_of

# One frame per packet. Not VP8 (hidden frames) or MPEG-2 (a packet may hold one field).
_ONE_FRAME_PER_PACKET = frozenset({"h264", "hevc", "av1", "vp9", "mjpeg", "ffv1"})


class PacketInfo(NamedTuple):
    """Properties of a packet that are known without decoding it."""

    pts: int | None
    dts: int | None
    pos: int | None
    is_key: bool
    is_corrupt: bool
    is_shown: bool
    vops: tuple[int, ...]


@dataclass(frozen=True, eq=False)
class VideoIndex:
    """Frames, packets and seek points of a video file.

    Attributes:
        num_frames: Number of frames in a decode of the whole file.
        order: int32 `(num_frames,)`, the packet of each frame; None if unknown, in which case
            frames can only be counted from the start of the file.
        is_packed: Whether packets must be unpacked to one frame each.
        seek_points: int64 `(K, 4)`, one row for each key packet, in file order: packet number,
            frame number, timestamp to seek to, position in the file in bytes.
        height: Height of the first frame as coded, in pixels.
        width: Width of the first frame as coded, in pixels.
        matrix: The linear part (a, b, c, d) of the display matrix, each -1, 0 or 1.
        fps: Average frame rate in frames per second; 25 if the file does not say.
        container: FFmpeg's name of the container format.
        times: float64 `(num_frames,)`, presentation times in seconds from the first frame; None if
            the timestamps are missing, repeat or go back.
    """

    num_frames: int
    order: NDArray[np.int32] | None
    is_packed: bool
    seek_points: NDArray[np.int64]
    height: int
    width: int
    matrix: tuple[int, int, int, int]
    fps: float
    container: str
    times: NDArray[np.float64] | None

    def starts_for(self, frames: Sequence[int]) -> list[int]:
        """Return for each frame the last key packet from which it can be decoded exactly."""
        if self.order is None:
            return [0] * len(frames)
        # A frame stored after a key frame but shown before it may reference the previous group.
        packets, shown = self.seek_points[:, 0], self.seek_points[:, 1]
        numbers = np.asarray(frames, np.int64)[:, None]
        usable = (packets <= self.order[numbers]) & (shown <= numbers)
        starts: list[int] = np.where(usable, packets, 0).max(1, initial=0).tolist()
        return starts

    def timestamp_of(self, packet: int) -> int | None:
        """Return the timestamp to seek to for a key packet; None if it has no seek point."""
        hits = self.seek_points[self.seek_points[:, 0] == packet, 2]
        return int(hits[0]) if len(hits) else None

    def packet_at(self, pos: int | None) -> int | None:
        """Return the number of the key packet at a position in the file; None if there is none."""
        hits = self.seek_points[self.seek_points[:, 3] == pos, 0]
        return int(hits[0]) if len(hits) == 1 else None


def scan_packets(
    container: InputContainer, stream: VideoStream
) -> tuple[list[PacketInfo], bool, VideoFrame | None]:
    """Return all packets of a file, whether they are marked as packed, and the first frame."""
    context = stream.codec_context
    is_mpeg4 = context.name == "mpeg4"
    is_marked = False
    packets: list[PacketInfo] = []
    first: VideoFrame | None = None
    for packet in demux(container, stream):
        data = bytes(packet) if is_mpeg4 else b""
        if not packets:
            is_marked = is_marked_as_packed((context.extradata or b"") + data)
        packets.append(
            PacketInfo(
                pts=packet.pts,
                dts=packet.dts,
                pos=packet.pos,
                is_key=packet.is_keyframe,
                is_corrupt=packet.is_corrupt,
                is_shown=not packet.is_discard,
                vops=vop_types(data),
            )
        )
        if first is None:
            first = next(iter(decode(context, packet)), None)
    return packets, is_marked, first or next(iter(decode(context, None)), None)


def presentation_order(
    context: VideoCodecContext, packets: list[PacketInfo], types: list[int] | None
) -> NDArray[np.int32] | None:
    """Return the packet of each frame; None if only a decode can tell.

    For an MPEG-4 stream, `types` is the result of `unpacked_types`.
    """
    if not packets or not packets[0].is_key or any(packet.is_corrupt for packet in packets):
        return None
    if context.name == "mpeg4":
        order = None if types is None else order_by_type(types)
        # The edit list of a trimmed MP4 file hides frames, which are decoded and not returned.
        hidden = [number for number, packet in enumerate(packets) if not packet.is_shown]
        return order if order is None or not hidden else order[~np.isin(order, hidden)]
    if context.name not in _ONE_FRAME_PER_PACKET:
        return None
    if context.name == "h264" and may_have_fields(context.extradata or b""):
        return None
    order = _order_by_timestamp(packets)
    if order is not None and context.has_b_frames and not (np.diff(order) < 0).any():
        # Frames are reordered but timestamps are not, so they only count packets, as in AVI.
        return None
    return order


def _order_by_timestamp(packets: list[PacketInfo]) -> NDArray[np.int32] | None:
    shown = [(packet.pts, number) for number, packet in enumerate(packets) if packet.is_shown]
    stamps = [pts for pts, _ in shown if pts is not None]
    if len(set(stamps)) != len(shown):
        return None
    order = np.asarray([shown[i][1] for i in np.argsort(stamps)], np.int32)
    # Frames shown before the first key frame reference frames that are not in the file.
    return order if stamps and min(stamps) >= (packets[0].pts or 0) else None


def presentation_times(
    packets: list[PacketInfo], order: NDArray[np.int32] | None, time_base: Fraction | None
) -> NDArray[np.float64] | None:
    """Return `VideoIndex.times`, for packets that hold one frame each."""
    if order is None or not time_base:
        return None
    stamps = [packets[number].pts for number in order.tolist()]
    known = np.asarray([stamp for stamp in stamps if stamp is not None], np.int64)
    if len(known) < len(stamps) or (known[1:] <= known[:-1]).any():
        return None
    # Integers of this size are exact, so that each time is rounded once.
    if (int(known[-1]) - int(known[0])) * time_base.numerator >= 2**53:
        return None
    times: NDArray[np.float64] = (known - known[:1]) * time_base.numerator / time_base.denominator
    return times


def seek_table(
    packets: list[PacketInfo], types: list[int] | None, order: NDArray[np.int32] | None
) -> NDArray[np.int64]:
    """Return the rows of `VideoIndex.seek_points`; `types` as for `presentation_order`."""
    rows: list[tuple[int, int, int, int]] = []
    frame_of = {} if order is None else {int(n): frame for frame, n in enumerate(order)}
    for number, packet in enumerate(packets):
        is_start = packet.is_key and (types is None or types[number] == VOP_I)
        # Formats differ in which of the two they seek by; the earlier one is always safe.
        stamps = [stamp for stamp in (packet.pts, packet.dts) if stamp is not None]
        if is_start and number in frame_of and stamps and packet.pos is not None:
            rows.append((number, frame_of[number], min(stamps), packet.pos))
    return np.asarray(rows, np.int64).reshape(-1, 4)


def index_by_decoding(source: Source) -> tuple[int, NDArray[np.int32] | None]:
    """Decode a whole file; return its number of frames, and the packet of each if unambiguous."""
    container, stream = open_stream(source)
    with closing(container):
        tags: list[int | None] = []
        for number, packet in enumerate(chain(demux(container, stream), [None])):
            if packet is not None:
                packet.pts = number
            tags += [frame.pts for frame in decode(stream.codec_context, packet)]
        # In an irregular MPEG-4 stream, frames may carry the numbers of other packets.
        is_mpeg4 = stream.codec_context.name == "mpeg4"
    known = [tag for tag in tags if tag is not None]
    is_clear = len(set(known)) == len(tags) and not is_mpeg4
    return len(tags), np.asarray(known, np.int32) if is_clear else None


def build_index(source: Source, container: InputContainer, stream: VideoStream) -> VideoIndex:
    """Index a newly opened file.

    Raises:
        BadVideoError: The file has no frame, or none that can be decoded.
    """
    path = name_of(source)
    packets, is_marked, first = scan_packets(container, stream)
    if first is None:
        reason = (
            f"none of its {len(packets)} packets decodes: damaged, or frames of more than "
            f"{MAX_PIXELS:,} pixels"
        )
        raise BadVideoError(path, reason if packets else "holds no frame")
    check_size(path, first.width, first.height)
    is_packed = any(len(packet.vops) > 1 for packet in packets)
    types = (
        unpacked_types(packet.vops for packet in packets)
        if stream.codec_context.name == "mpeg4"
        else None
    )
    order = None
    # Without the marker, the decoder keeps the first frame of a packed packet and drops the other.
    if is_marked or not is_packed:
        order = presentation_order(stream.codec_context, packets, types)
    num_frames = 0 if order is None else len(order)
    if order is None:
        num_frames, order = index_by_decoding(source)
    seek_points = seek_table(packets, types, order)
    if "pal8" in (first.format.name, stream.codec_context.pix_fmt):
        # A seek would skip the palette, which only some packets hold.
        seek_points = seek_table([], None, None)
    return VideoIndex(
        num_frames=num_frames,
        order=order,
        is_packed=is_packed and order is not None,
        seek_points=seek_points,
        height=first.height,
        width=first.width,
        matrix=display_matrix(first),
        fps=float(stream.average_rate or stream.guessed_rate or Fraction(25)),
        container=container.format.name.partition(",")[0],
        times=None if is_packed else presentation_times(packets, order, stream.time_base),
    )
