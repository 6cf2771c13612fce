"""Zip archives, read by the standard library."""

from __future__ import annotations

import stat
import zipfile
import zlib
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from p3d.data.prepare.members import CHUNK_BYTES, DamagedError, Member, Reader, check_name
from p3d.errors import UserError


def zip_members(path: Path) -> tuple[Member, ...]:
    """The files in a zip.

    Raises:
        UserError: It is damaged or encrypted, or holds what is refused.
    """
    members = []
    try:
        with zipfile.ZipFile(path) as archive:
            for info in archive.infolist():
                check_name(path, info.filename, link=stat.S_ISLNK(info.external_attr >> 16))
                if info.flag_bits & 1:
                    raise UserError(f"{path}: is encrypted; unpack it and give the folder")
                if not info.is_dir():
                    members.append(Member(info.filename, info.file_size, info.CRC))
    except (zipfile.BadZipFile, OSError) as error:
        raise UserError(f"{path}: not a readable zip ({error}); download it again") from error
    return tuple(members)


@contextmanager
def zip_contents(path: Path) -> Iterator[Reader]:
    """Opens a zip; its members can be asked for in any order, and never give more than promised."""
    with zipfile.ZipFile(path) as archive:

        def read(member: Member) -> Iterator[bytes]:
            left = member.size
            try:
                with archive.open(member.name) as file:
                    while left > 0 and (chunk := file.read(min(CHUNK_BYTES, left))):
                        left -= len(chunk)
                        yield chunk
            except (zipfile.BadZipFile, NotImplementedError, zlib.error, EOFError) as error:
                raise DamagedError(f"{member.name} comes out damaged ({error})") from error

        yield read
