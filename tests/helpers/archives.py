"""Archives of clips for tests. RARs follow the public format description, uncompressed."""

from __future__ import annotations

import stat
import struct
import zipfile
import zlib
from collections.abc import Mapping, Sequence
from pathlib import Path

Files = Sequence[tuple[str, bytes]]

CLIPS: Files = [
    (f"UCF-101/YoYo/v_YoYo_g{group:02d}_c01.avi", f"clip {group} ".encode() * 20_000)
    for group in range(1, 26)
]


def rar4(path: Path, files: Files, *, mode: int = stat.S_IFREG | 0o644, flags: int = 0) -> Path:
    def block(kind: int, flags: int, fields: bytes) -> bytes:
        body = struct.pack("<BHH", kind, flags, 7 + len(fields)) + fields
        return struct.pack("<H", zlib.crc32(body) & 0xFFFF) + body

    parts = [b"Rar!\x1a\x07\x00", block(0x73, 0, bytes(6))]
    for name, data in files:
        size, crc, encoded = len(data), zlib.crc32(data), name.encode()
        fields = struct.pack("<IIBIIBBHI", size, size, 3, crc, 0, 20, 0x30, len(encoded), mode)
        parts += [block(0x74, 0x8000 | flags, fields + encoded), data]
    path.write_bytes(b"".join([*parts, block(0x7B, 0x4000, b"")]))
    return path


def rar5(path: Path, files: Files, *, digests: Mapping[str, bytes] | None = None) -> Path:
    """Write a RAR 5. With `digests`, files have these BLAKE2sp instead of CRCs, or nothing."""

    def number(value: int) -> bytes:
        digits = [value >> shift & 0x7F for shift in range(0, max(value.bit_length(), 1), 7)]
        return bytes([*(digit | 0x80 for digit in digits[:-1]), digits[-1]])

    def block(*fields: int | bytes) -> bytes:
        body = b"".join(field if isinstance(field, bytes) else number(field) for field in fields)
        body = number(len(body)) + body
        return struct.pack("<I", zlib.crc32(body)) + body

    parts = [b"Rar!\x1a\x07\x01\x00", block(1, 0, 0)]
    for name, data in files:
        crc, encoded = struct.pack("<I", zlib.crc32(data)), name.encode()
        regular = stat.S_IFREG | 0o644
        if digests is None:
            fields = (2, 2, len(data), 4, len(data), regular, crc, 0, 1, len(encoded), encoded)
        else:
            # An extra record: its size, 2 for a checksum, 0 for BLAKE2sp.
            record = number(34) + number(2) + number(0) + digests[name] if name in digests else b""
            head = (3, len(record)) if record else (2,)
            sizes = (len(data), 0, len(data), regular, 0, 1, len(encoded))
            fields = (2, *head, *sizes, encoded, record)
        parts += [block(*fields), data]
    path.write_bytes(b"".join([*parts, block(5, 0, 0)]))
    return path


def zipped(path: Path, files: Files) -> Path:
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as writer:
        for name, data in files:
            writer.writestr(name, data)
    return path
