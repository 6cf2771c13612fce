"""Members of archives, and checks that refuse dangerous archives.

Names in an archive are never used as paths, but those that lead outside are refused nonetheless.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import IO

from p3d.errors import UserError

# UCF101 has 13,320 clips of a few MiB at most, less than 7 GiB in total.
MOST_MEMBERS = 100_000
LARGEST_MEMBER_BYTES = 256 * 2**20
LARGEST_TOTAL_BYTES = 32 * 2**30

CHUNK_BYTES = 2**20


@dataclass(frozen=True)
class Member:
    """A file in an archive.

    Attributes:
        name: Its path in the archive.
        size: Unpacked size in bytes.
        crc: CRC-32 of the contents, or None if the archive has none.
    """

    name: str
    size: int
    crc: int | None

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
    if link or ".." in parts or name[:1] in ("/", "\\") or (parts and ":" in parts[0]):
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
