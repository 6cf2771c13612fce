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

import re
from collections.abc import Sequence
from contextlib import closing
from dataclasses import dataclass
from fractions import Fraction
from itertools import chain
from pathlib import Path
from typing import NamedTuple

import numpy as np
from av.container import InputContainer
from av.sidedata.sidedata import SideData
from av.video.codeccontext import VideoCodecContext
from av.video.frame import VideoFrame
from av.video.stream import VideoStream
from numpy.typing import NDArray

from p3d.errors import BadVideoError
from p3d.video.packets import check_size, decode, demux, open_stream

# One packet, one frame. Not VP8 (hidden frames) nor MPEG-2 (a packet may hold one field).
_ONE_PICTURE_A_PACKET = frozenset({"h264", "hevc", "av1", "vp9", "mjpeg", "ffv1"})

# The note by which FFmpeg's decoder too knows a packed stream.
_PACKED_NOTE = re.compile(rb"DivX\d+(b|Build)\d+p")
_VOP_START = b"\x00\x00\x01\xb6"
_VOP_I, _VOP_B, _VOP_EMPTY = 0, 2, -1
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
    vops: tuple[int, ...]


class Scan(NamedTuple):
    """What a file tells without being decoded, and its first frame if it has one."""

    packets: list[PacketFacts]
    may_be_packed: bool
    first_frame: VideoFrame | None


@dataclass(frozen=True, eq=False)
class VideoIndex:
    """Frames, packets and places to seek to.

    Attributes:
        num_frames: Frames that a decode of the whole file gives.
        order: int32 (num_frames,), the packet of each frame; None if that is not clear, in which
            case frames can only be counted from the start.
        is_packed: True if packets are to be unpacked to one picture each.
        seek_points: int64 (K, 4), one row for each key packet, in file order: packet, frame,
            timestamp to seek to, position in the file in bytes.
        height: Height of the first frame as coded, in pixels.
        width: Width of the first frame as coded, in pixels.
        matrix: How the picture is to be turned: (a, b, c, d) of the display matrix, each -1, 0, 1.
        fps: Frames a second, on average; 25 if the file does not say.
        container: FFmpeg's name of the container format.
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

    def starts_for(self, frames: Sequence[int]) -> list[int]:
        """Return for each frame the last key packet from which a decode reaches it exactly."""
        if self.order is None:
            return [0] * len(frames)
        # A frame shown before the key picture but stored after it leans on the group before.
        packets, shown = self.seek_points[:, 0], self.seek_points[:, 1]
        numbers = np.asarray(frames, np.int64)[:, None]
        usable = (packets <= self.order[numbers]) & (shown <= numbers)
        starts: list[int] = np.where(usable, packets, 0).max(1, initial=0).tolist()
        return starts

    def timestamp_of(self, packet: int) -> int | None:
        """Return the timestamp to seek to for a key packet; None if there is no seeking to it."""
        hits = self.seek_points[self.seek_points[:, 0] == packet, 2]
        return int(hits[0]) if len(hits) else None

    def packet_at(self, pos: int | None) -> int | None:
        """Return the number of the key packet at a position in the file, if it is one."""
        hits = self.seek_points[self.seek_points[:, 3] == pos, 0]
        return int(hits[0]) if len(hits) == 1 else None


def scan_packets(container: InputContainer, stream: VideoStream) -> Scan:
    """Read all packets of a freshly opened file, decoding no more than the first frame."""
    context = stream.codec_context
    is_mpeg4 = context.name == "mpeg4"
    may_be_packed = False
    facts: list[PacketFacts] = []
    first: VideoFrame | None = None
    for packet in demux(container, stream):
        data = bytes(packet) if is_mpeg4 else b""
        if not facts:
            may_be_packed = bool(_PACKED_NOTE.search((context.extradata or b"") + data))
        facts.append(
            PacketFacts(
                pts=packet.pts,
                dts=packet.dts,
                pos=packet.pos,
                is_key=packet.is_keyframe,
                is_sound=not packet.is_corrupt,
                is_shown=not packet.is_discard,
                vops=_vop_types(data),
            )
        )
        if first is None:
            first = next(iter(decode(context, packet)), None)
    return Scan(facts, may_be_packed, first or next(iter(decode(context, None)), None))


def _vop_types(data: bytes) -> tuple[int, ...]:
    """Return the types of the pictures in an MPEG-4 packet, in order."""
    types: list[int] = []
    at = data.find(_VOP_START)
    while at >= 0:
        end = data.find(_VOP_START, at + len(_VOP_START))
        size = (end if end >= 0 else len(data)) - at - len(_VOP_START)
        types.append(data[at + 4] >> 6 if size > _MAX_EMPTY_VOP_BYTES else _VOP_EMPTY)
        at = end
    return tuple(types)


def unpacked_types(facts: list[PacketFacts]) -> list[int] | None:
    """Return the type of the one picture of each MPEG-4 packet after unpacking.

    A packed packet is a picture and the B picture behind it, which comes out in place of the next
    packet's; a packet that was only there to fill that place is gone then. None if the packets do
    not go by this rule, as where pictures are left out or not coded.
    """
    types: list[int] = []
    waiting: int | None = None
    for fact in facts:
        if waiting is not None and len(fact.vops) == 1:
            types.append(waiting)
            waiting = None if fact.vops[0] == _VOP_EMPTY else fact.vops[0]
        elif waiting is None and len(fact.vops) in (1, 2) and _VOP_EMPTY not in fact.vops:
            types.append(fact.vops[0])
            waiting = fact.vops[1] if len(fact.vops) == 2 else None
        else:
            return None
        if waiting not in (None, _VOP_B):
            return None
    return types


def presentation_order(
    context: VideoCodecContext, facts: list[PacketFacts], types: list[int] | None
) -> NDArray[np.int32] | None:
    """Return the packet of each frame, or None if only a decode can tell.

    `types` is what `unpacked_types` gives for an MPEG-4 stream.
    """
    if not facts or not facts[0].is_key or not all(fact.is_sound for fact in facts):
        return None
    if context.name == "mpeg4":
        return None if types is None else _order_by_picture_type(types)
    if context.name not in _ONE_PICTURE_A_PACKET:
        return None
    order = _order_by_timestamp(facts)
    if order is not None and context.has_b_frames and not (np.diff(order) < 0).any():
        # Pictures out of order, timestamps in order: these only count packets, as AVI's do.
        return None
    return order


def _order_by_picture_type(types: list[int]) -> NDArray[np.int32] | None:
    order: list[int] = []
    held: int | None = None
    for number, vop in enumerate(types):
        if vop != _VOP_B:
            if held is not None:
                order.append(held)
            held = number
        elif order:
            order.append(number)
        else:
            # The decoder drops a B picture that has but one picture to lean on.
            return None
    return np.asarray(order if held is None else [*order, held], np.int32)


def _order_by_timestamp(facts: list[PacketFacts]) -> NDArray[np.int32] | None:
    shown = [(fact.pts, number) for number, fact in enumerate(facts) if fact.is_shown]
    stamps = [pts for pts, _ in shown if pts is not None]
    if len(set(stamps)) != len(shown):
        return None
    order = np.asarray([shown[i][1] for i in np.argsort(stamps)], np.int32)
    # Pictures shown before the first key picture lean on something that is not in the file.
    return order if stamps and min(stamps) >= (facts[0].pts or 0) else None


def seek_table(
    facts: list[PacketFacts], types: list[int] | None, order: NDArray[np.int32] | None
) -> NDArray[np.int64]:
    """Return the rows of `VideoIndex.seek_points`; `types` as by `unpacked_types`, if MPEG-4."""
    rows: list[tuple[int, int, int, int]] = []
    frame_of = {} if order is None else {int(n): frame for frame, n in enumerate(order)}
    for number, fact in enumerate(facts):
        is_start = fact.is_key and (types is None or types[number] == _VOP_I)
        # Formats differ in which of the two they seek by; too early does no harm.
        stamps = [stamp for stamp in (fact.pts, fact.dts) if stamp is not None]
        if is_start and number in frame_of and stamps and fact.pos is not None:
            rows.append((number, frame_of[number], min(stamps), fact.pos))
    return np.asarray(rows, np.int64).reshape(-1, 4)


def display_matrix(frame: VideoFrame) -> tuple[int, int, int, int]:
    """Return the linear part of a frame's display matrix if it turns or mirrors, else identity."""
    data = frame.side_data.get("DISPLAYMATRIX")
    if isinstance(data, SideData):
        m = np.rint(np.frombuffer(bytes(data), np.int32)[[0, 1, 3, 4]] / 65536).astype(int).tolist()
        if sorted(map(abs, m)) == [0, 0, 1, 1] and abs(m[0] * m[3] - m[1] * m[2]) == 1:
            return m[0], m[1], m[2], m[3]
    return 1, 0, 0, 1


def index_by_decoding(path: Path) -> tuple[int, NDArray[np.int32] | None]:
    """Decode a whole file; return its number of frames, and the packet of each if that is clear."""
    container, stream = open_stream(path)
    with closing(container):
        tags: list[int | None] = []
        for number, packet in enumerate(chain(demux(container, stream), [None])):
            if packet is not None:
                packet.pts = number
            tags += [frame.pts for frame in decode(stream.codec_context, packet)]
        # What is odd about an MPEG-4 stream may be that pictures come out under wrong numbers.
        is_mpeg4 = stream.codec_context.name == "mpeg4"
    known = [tag for tag in tags if tag is not None]
    is_clear = len(set(known)) == len(tags) and not is_mpeg4
    return len(tags), np.asarray(known, np.int32) if is_clear else None


def build_index(path: Path, container: InputContainer, stream: VideoStream) -> VideoIndex:
    """Index a freshly opened file.

    Raises:
        BadVideoError: The file holds no frame, or none that decodes.
    """
    facts, may_be_packed, first = scan_packets(container, stream)
    if first is None:
        reason = f"none of its {len(facts)} packets decodes" if facts else "holds no frame"
        raise BadVideoError(path, reason)
    check_size(path, first.width, first.height)
    is_packed = any(len(fact.vops) > 1 for fact in facts)
    types = unpacked_types(facts) if stream.codec_context.name == "mpeg4" else None
    order = None
    # Without the note the decoder takes the first picture of a packet and drops the other.
    if may_be_packed or not is_packed:
        order = presentation_order(stream.codec_context, facts, types)
    num_frames = 0 if order is None else len(order)
    if order is None:
        num_frames, order = index_by_decoding(path)
    return VideoIndex(
        num_frames=num_frames,
        order=order,
        is_packed=is_packed and order is not None,
        seek_points=seek_table(facts, types, order),
        height=first.height,
        width=first.width,
        matrix=display_matrix(first),
        fps=float(stream.average_rate or stream.guessed_rate or Fraction(25)),
        container=container.format.name.partition(",")[0],
    )
