"""What an H.264 stream says about itself in its sequence parameter sets (SPS)."""

from __future__ import annotations

from collections.abc import Iterator

_SPS = 7
_START_CODE = b"\x00\x00\x01"
# Profiles whose SPS describe the chroma format and bit depths (ITU-T H.264, 7.3.2.1.1).
_HIGH_PROFILES = frozenset({44, 83, 86, 100, 110, 118, 122, 128, 134, 135, 138, 139, 244})


def may_have_fields(extradata: bytes) -> bool:
    """Return whether a stream may code a frame as two fields, each in a packet of its own.

    Args:
        extradata: The decoder's configuration: an `avcC` record, or NAL units with start codes.

    Returns:
        True also if the stream has no SPS there, or a damaged one.
    """
    try:
        sets = list(_parameter_sets(extradata))
        return not sets or not all(map(_frame_mbs_only, sets))
    except IndexError:
        return True


def _parameter_sets(extradata: bytes) -> Iterator[bytes]:
    """Yield the content of each SPS, without its NAL unit's header."""
    if extradata[:1] != b"\x01":
        for unit in extradata.split(_START_CODE)[1:]:
            if unit and unit[0] & 31 == _SPS:
                yield unit[1:]
        return
    start = 6
    for _ in range(extradata[5] & 31):
        size = int.from_bytes(extradata[start : start + 2], "big")
        yield extradata[start + 3 : start + 2 + size]
        start += 2 + size


class _Bits:
    """Reads bits and Exp-Golomb numbers; IndexError at the end."""

    def __init__(self, data: bytes) -> None:
        data = data.replace(b"\x00\x00\x03", b"\x00\x00")
        self._bits = "".join(f"{byte:08b}" for byte in data)
        self._position = 0

    def read(self, count: int = 1) -> int:
        bits = self._bits[self._position : self._position + count]
        if len(bits) < count:
            raise IndexError
        self._position += count
        return int(bits, 2) if bits else 0

    def unsigned(self) -> int:
        zeros = 0
        while not self.read():
            zeros += 1
        return (1 << zeros) - 1 + self.read(zeros)

    def signed(self) -> int:
        number = self.unsigned()
        return (number + 1) // 2 if number % 2 else -(number // 2)


def _frame_mbs_only(sps: bytes) -> bool:
    """Return `frame_mbs_only_flag`: whether all pictures are whole frames."""
    bits = _Bits(sps)
    profile = bits.read(8)
    bits.read(16)  # constraints and level
    bits.unsigned()
    if profile in _HIGH_PROFILES:
        _skip_high_profile(bits)
    bits.unsigned()
    order_type = bits.unsigned()
    if order_type == 0:
        bits.unsigned()
    elif order_type == 1:
        bits.read()
        bits.signed()
        bits.signed()
        for _ in range(bits.unsigned()):
            bits.signed()
    bits.unsigned()
    bits.read()
    bits.unsigned()
    bits.unsigned()
    return bool(bits.read())


def _skip_high_profile(bits: _Bits) -> None:
    """Skip chroma format, bit depths and scaling lists."""
    chroma = bits.unsigned()
    if chroma == 3:
        bits.read()
    bits.unsigned()
    bits.unsigned()
    bits.read()
    if not bits.read():
        return
    for number in range(12 if chroma == 3 else 8):
        if bits.read():
            last = following = 8
            for _ in range(16 if number < 6 else 64):
                if following:
                    following = (last + bits.signed()) % 256
                last = following or last
