"""What an archive holds, and what it must not hold.

The names inside an archive are never used as paths; an archive that tries to write elsewhere, or
to fill the disk, is refused all the same.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass
from pathlib import Path, PurePosixPath

from p3d.errors import UserError

MOST_MEMBERS = 100_000
LARGEST_MEMBER_BYTES = 256 * 2**20
LARGEST_TOTAL_BYTES = 32 * 2**30
"""UCF101 has 13,320 clips, the largest of a few MiB, in all less than 7 GiB."""

CHUNK_BYTES = 2**20


@dataclass(frozen=True)
class Member:
    """A file in an archive.

    Attributes:
        name: As the archive has it.
        size: Bytes when unpacked.
        crc: CRC-32 of the contents, or None where the archive has none.
    """

    name: str
    size: int
    crc: int | None

    @property
    def key(self) -> str:
        """The file name alone, in small letters."""
        return PurePosixPath(self.name).name.lower()


Reader = Callable[[Member], Iterator[bytes]]
"""Gives a member's contents, in pieces. Members must be asked for in the archive's order."""

Opener = Callable[[Path], AbstractContextManager[Reader]]
"""One way to read an archive's contents."""


class DamagedError(UserError):
    """The contents of a member are not what the archive promises, or did not come at all."""


def check_name(path: Path, name: str, *, link: bool) -> None:
    """Refuses links and names that lead out of the folder that an archive is unpacked into.

    Raises:
        UserError: The entry is one of these.
    """
    parts = PurePosixPath(name.replace("\\", "/")).parts
    if link or ".." in parts or name[:1] in ("/", "\\") or (parts and ":" in parts[0]):
        kind = "is a link" if link else "leads out of the archive's folder"
        raise UserError(f"{path}: entry {name!r} {kind}; refused, get the archive elsewhere")


def check_sizes(path: Path, members: Sequence[Member]) -> None:
    """Refuses what is far larger than any data set of clips.

    Raises:
        UserError: There are too many members, or they are too large.
    """
    total = sum(member.size for member in members)
    largest = max(members, key=lambda member: member.size, default=Member("", 0, None))
    if len(members) > MOST_MEMBERS:
        raise UserError(
            f"{path}: holds {len(members):,} files, more than {MOST_MEMBERS:,}; refused"
        )
    if largest.size > LARGEST_MEMBER_BYTES:
        raise UserError(
            f"{path}: {largest.name} unpacks to {largest.size:,} bytes, more than "
            f"{LARGEST_MEMBER_BYTES:,}; refused"
        )
    if total > LARGEST_TOTAL_BYTES:
        raise UserError(
            f"{path}: unpacks to {total:,} bytes, more than {LARGEST_TOTAL_BYTES:,}; refused"
        )
