"""Members of archives, and checks that refuse dangerous archives.

Names in an archive are never used as paths, but those that lead outside are refused nonetheless.
"""

from __future__ import annotations

import hashlib
import zlib
from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import IO

import numpy as np

from p3d.errors import UserError

# UCF101 has 13,320 clips of a few MiB at most, less than 7 GiB in total.
MOST_MEMBERS = 100_000
LARGEST_MEMBER_BYTES = 256 * 2**20
LARGEST_TOTAL_BYTES = 32 * 2**30
# The lists of UCF101 have 2 MB, those of Kinetics 50 MB.
LARGEST_LISTS_BYTES = 256 * 2**20

CHUNK_BYTES = 2**20


@dataclass(frozen=True)
class Member:
    """A file in an archive.

    Attributes:
        name: Its path in the archive.
        size: Unpacked size in bytes.
        crc: CRC-32 of the contents, or None if the archive has none.
        blake2sp: BLAKE2sp of the contents, or None if the archive has none.
    """

    name: str
    size: int
    crc: int | None
    blake2sp: bytes | None = None

    @property
    def verifiable(self) -> bool:
        """Whether the archive has a checksum of the contents."""
        return self.crc is not None or self.blake2sp is not None

    @property
    def file_name(self) -> str:
        """The name without folders."""
        return PurePosixPath(self.name).name

    @property
    def key(self) -> str:
        """The file name in lower case."""
        return self.file_name.lower()


Reader = Callable[[Member], Iterator[bytes]]
"""Yields the contents of a member in chunks. Members must be read in the archive's order."""

Opener = Callable[[Path], AbstractContextManager[Reader]]
"""Opens an archive for reading contents."""


class Verifier:
    """Compares contents, given in chunks, with the size and all checksums of a member."""

    def __init__(self, member: Member) -> None:
        self._member = member
        self._size = self._crc = 0
        self._blake2sp = None if member.blake2sp is None else Blake2sp()

    def update(self, chunk: bytes) -> None:
        """Add a chunk."""
        self._size += len(chunk)
        self._crc = zlib.crc32(chunk, self._crc)
        if self._blake2sp is not None:
            self._blake2sp.update(chunk)

    def matches(self) -> bool:
        """Return whether the contents are complete and intact."""
        member = self._member
        if self._size != member.size or not member.verifiable:
            return False
        digest = None if self._blake2sp is None else self._blake2sp.digest()
        return member.crc in (None, self._crc) and member.blake2sp == digest


class Blake2sp:
    """BLAKE2sp, the checksum of `rar -htb`: eight BLAKE2s of every eighth block (RFC 7693).

    Aumasson et al. 2013, "BLAKE2: simpler, smaller, fast as MD5", section 2.10.
    """

    def __init__(self) -> None:
        self._leaves = [self._node(index, 0, last=index == 7) for index in range(8)]
        self._rest = b""

    @staticmethod
    def _node(offset: int, depth: int, *, last: bool) -> hashlib.blake2s:
        return hashlib.blake2s(
            fanout=8, depth=2, inner_size=32, node_offset=offset, node_depth=depth, last_node=last
        )

    def update(self, data: bytes) -> None:
        """Add data."""
        data = self._rest + data
        whole = len(data) // 512 * 512
        blocks = np.frombuffer(data, np.uint8, whole).reshape(-1, 8, 64)
        for index, leaf in enumerate(self._leaves):
            leaf.update(blocks[:, index].tobytes())
        self._rest = data[whole:]

    def digest(self) -> bytes:
        """Return the checksum; nothing can be added after that."""
        root = self._node(0, 1, last=True)
        for index, leaf in enumerate(self._leaves):
            leaf.update(self._rest[64 * index : 64 * index + 64])
            root.update(leaf.digest())
        return root.digest()


class DamagedError(UserError):
    """The contents of a member differ from its size or checksum, or cannot be read."""


def read_member(file: IO[bytes], member: Member) -> Iterator[bytes]:
    """Yield the contents of a member from an open file, never more than its size."""
    left = member.size
    while left > 0 and (chunk := file.read(min(CHUNK_BYTES, left))):
        left -= len(chunk)
        yield chunk


def check_entry(path: Path, name: str, *, link: bool, encrypted: bool) -> None:
    """Raise a `UserError` if an entry is a link, leads out of the archive or is encrypted."""
    parts = PurePosixPath(name.replace("\\", "/")).parts
    outside = ".." in parts or name[:1] in ("/", "\\") or (parts and ":" in parts[0])
    if link or outside or "\0" in name:
        kind = "is a link" if link else "leads out of the archive's folder"
        raise UserError(f"{path}: entry {name!r} {kind}; refused, get the archive elsewhere")
    if encrypted:
        raise UserError(f"{path}: is encrypted; unpack it and give the folder")


def check_sizes(path: Path, members: Sequence[Member]) -> None:
    """Raise a `UserError` if an archive is far larger than any data set of clips."""
    total = sum(member.size for member in members)
    largest = max(members, key=lambda member: member.size, default=Member("", 0, None))
    for fact, size, limit in (
        (f"holds {len(members):,} files", len(members), MOST_MEMBERS),
        (f"{largest.name} unpacks to {largest.size:,} bytes", largest.size, LARGEST_MEMBER_BYTES),
        (f"unpacks to {total:,} bytes", total, LARGEST_TOTAL_BYTES),
    ):
        if size > limit:
            raise UserError(f"{path}: {fact}, more than {limit:,}; refused")
