"""The frames in the packets of an MPEG-4 part 2 stream (XviD, DivX, FMP4), and their order."""

from __future__ import annotations

import re
from collections.abc import Iterable

import numpy as np
from numpy.typing import NDArray

# The user data by which FFmpeg's decoder, too, recognizes a packed stream.
_PACKED_MARKER = re.compile(rb"DivX\d+(b|Build)\d+p")
# An MPEG-4 frame is a "VOP"; its type follows the start code.
_VOP_START = b"\x00\x00\x01\xb6"
VOP_I, _VOP_B, _VOP_EMPTY = 0, 2, -1
# A VOP that is "not coded" (repeat the last frame) fits in this, and the decoder returns no frame
# for it. So may a coded VOP of very few blocks: such files are decoded to find out.
_MAX_EMPTY_VOP_BYTES = 8


def is_marked_as_packed(data: bytes) -> bool:
    """Return whether the headers or the first packet say that packets may hold two frames."""
    return bool(_PACKED_MARKER.search(data))


def vop_types(data: bytes) -> tuple[int, ...]:
    """Return the types of the VOPs in an MPEG-4 packet, in order."""
    types: list[int] = []
    start = data.find(_VOP_START)
    while start >= 0:
        end = data.find(_VOP_START, start + len(_VOP_START))
        size = (end if end >= 0 else len(data)) - start - len(_VOP_START)
        types.append(data[start + 4] >> 6 if size > _MAX_EMPTY_VOP_BYTES else _VOP_EMPTY)
        start = end
    return tuple(types)


def unpacked_types(packets: Iterable[tuple[int, ...]]) -> list[int] | None:
    """Return the type of each packet's frame after unpacking, from the types of its VOPs.

    A packed packet holds a frame and the B-frame after it. Unpacking moves the B-frame to the next
    packet, and drops an empty packet whose only purpose was to keep that position. None if the
    packets do not follow this scheme, as where frames are missing or not coded.
    """
    types: list[int] = []
    waiting: int | None = None
    for vops in packets:
        if waiting is not None and len(vops) == 1:
            types.append(waiting)
            waiting = None if vops[0] == _VOP_EMPTY else vops[0]
        elif waiting is None and len(vops) in (1, 2) and _VOP_EMPTY not in vops:
            types.append(vops[0])
            waiting = vops[1] if len(vops) == 2 else None
        else:
            return None
        if waiting not in (None, _VOP_B):
            return None
    return types


def order_by_type(types: list[int]) -> NDArray[np.int32] | None:
    """Return the packet of each frame, from the results of `unpacked_types`.

    An I- or P-frame is shown after the B-frames that follow it. None if the first frame is one that
    the decoder drops.
    """
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
            # The decoder drops a B-frame that has only one reference frame.
            return None
    return np.asarray(order if held is None else [*order, held], np.int32)
