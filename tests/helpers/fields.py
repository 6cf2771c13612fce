"""H.264 with one field per packet, as interlaced cameras and broadcasts give it after a remux.

No encoder of PyAV writes it, so this one does: all pixels are stored as they are (I_PCM).
"""

from __future__ import annotations

from fractions import Fraction
from pathlib import Path

import av
import numpy as np
from numpy.typing import NDArray

from helpers.videos import picture

HEIGHT, WIDTH = 64, 80


def unsigned(number: int) -> str:
    """Return a number as the bits of an unsigned Exp-Golomb code."""
    bits = f"{number + 1:b}"
    return "0" * (len(bits) - 1) + bits


def nal_unit(header: int, bits: str, payload: bytes = b"") -> bytes:
    """Return a NAL unit with its start code, from aligned bits followed by bytes."""
    data = bytes(int(bits[i : i + 8], 2) for i in range(0, len(bits), 8)) + payload
    escaped, zeros = bytearray(), 0
    for byte in data:
        if zeros == 2 and byte <= 3:
            escaped.append(3)
            zeros = 0
        escaped.append(byte)
        zeros = zeros + 1 if byte == 0 else 0
    return b"\x00\x00\x00\x01" + bytes([header]) + bytes(escaped)


def padded(bits: str) -> str:
    """Return bits with the end marker of a NAL unit, in whole bytes."""
    bits += "1"
    return bits + "0" * (-len(bits) % 8)


def parameter_sets() -> bytes:
    """Return the SPS and the PPS."""
    size = unsigned(WIDTH // 16 - 1) + unsigned(HEIGHT // 32 - 1)
    # Frame numbers of 4 bits, output in coding order, fields allowed.
    sps = unsigned(0) * 2 + unsigned(2) + unsigned(1) + "0" + size + "0010" + "0"
    pps = unsigned(0) * 2 + "00" + unsigned(0) * 3 + "000" + unsigned(0) * 3 + "100"
    main_profile = f"{77:08b}{0:08b}{30:08b}"
    return nal_unit(0x67, padded(main_profile + sps)) + nal_unit(0x68, padded(pps))


def field(luma: NDArray[np.uint8], frame: int, *, bottom: bool, gop: int) -> bytes:
    """Return one field of a frame as a NAL unit."""
    is_idr = frame % gop == 0 and not bottom
    header = unsigned(0) + unsigned(7) + unsigned(0) + f"{frame % gop % 16:04b}1{bottom:d}"
    header += unsigned(frame // gop % 2) + "00" if is_idr else "0"
    bits = header + unsigned(0) + unsigned(1)  # no deblocking
    blocks = []
    for top in range(0, luma.shape[0], 16):
        for left in range(0, WIDTH, 16):
            block = luma[top : top + 16, left : left + 16].tobytes() + bytes([128]) * 128
            blocks.append(block)
    # Each block begins with its type, I_PCM, and zeros up to a whole byte.
    kind = unsigned(25)
    first = bits + kind
    first += "0" * (-len(first) % 8)
    later = kind + "0" * (-len(kind) % 8)
    between = bytes(int(later[i : i + 8], 2) for i in range(0, len(later), 8))
    return nal_unit(0x65 if is_idr else 0x61, first, between.join(blocks) + b"\x80")


def write_fields(path: Path, num_frames: int, *, gop: int = 5) -> Path:
    """Write a video of interlaced frames 0, 1, ... in the format of its suffix."""
    stream = bytearray()
    for number in range(num_frames):
        luma = picture(number, height=HEIGHT, width=WIDTH).mean(2).clip(16, 235).astype(np.uint8)
        if number % gop == 0:
            stream += parameter_sets()
        for bottom in (False, True):
            stream += field(luma[int(bottom) :: 2], number, bottom=bottom, gop=gop)
    raw = path.with_suffix(".h264")
    raw.write_bytes(stream)
    if path == raw:
        return path
    with av.open(str(raw)) as old, av.open(str(path), "w") as new:
        copy = new.add_stream_from_template(old.streams.video[0])
        for number, packet in enumerate(p for p in old.demux(video=0) if p.size):
            packet.pts = packet.dts = number
            packet.time_base = Fraction(1, 50)
            packet.stream = copy
            new.mux(packet)
    raw.unlink()
    return path
