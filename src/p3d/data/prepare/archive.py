"""Clips straight out of a RAR or zip archive, in one pass and with every checksum verified."""

from __future__ import annotations

import shutil
import zipfile
import zlib
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path

from p3d.data.prepare.files import appearing
from p3d.data.prepare.members import DamagedError, Member, Opener, check_sizes
from p3d.data.prepare.progress import Progress
from p3d.data.prepare.rar_file import rar_members, rar_openers
from p3d.data.prepare.zip_file import zip_contents, zip_members
from p3d.errors import UserError


@dataclass(frozen=True)
class Archive:
    """An archive of clips that was found fit to unpack.

    Attributes:
        path: The file.
        members: Its files, in order.
        clips: Its AVI files, or files of the kind that was asked for, by name in small letters;
            empty and hidden ones are left out.
        repeated: How many more files are equal to one of these.
        is_zip: Whether it is a zip, whose members may be passed over unread; else a RAR.
    """

    path: Path
    members: tuple[Member, ...]
    clips: Mapping[str, Member]
    repeated: int
    is_zip: bool

    def extract(self, targets: Mapping[str, Path]) -> None:
        """Unpacks clips, each whole or not at all.

        What one unpacker cannot read, another that is installed may.

        Args:
            targets: Where to write which clip, by name in small letters. The folders must exist.

        Raises:
            UserError: If the disk is too small or the archive damaged.
        """
        if not targets:
            return
        wanted = {id(self.clips[key]): target for key, target in targets.items()}
        _check_room(
            next(iter(targets.values())).parent, sum(self.clips[key].size for key in targets)
        )
        reasons = []
        for opener in (zip_contents,) if self.is_zip else rar_openers(self.path):
            try:
                self._extract(wanted, opener)
                return
            except DamagedError as error:
                reasons.append(str(error))
        raise UserError(
            f"{self.path}: {'; '.join(reasons)}; download the archive again, or unpack it with "
            "unrar or 7-Zip and give the folder"
        )

    def _extract(self, wanted: dict[int, Path], opener: Opener) -> None:
        """Writes what is wanted and takes it off the list."""
        total = sum(member.size for member in self.members if id(member) in wanted)
        title = f"Unpacking {self.path.name}"
        with Progress(total, title, "B") as progress, opener(self.path) as read:
            for member in self.members:
                if id(member) in wanted:
                    _write(member, read(member), wanted[id(member)], progress)
                    del wanted[id(member)]
                elif not self.is_zip:
                    for _ in read(member):
                        pass
                if not wanted:
                    break


def open_archive(path: Path, suffix: str = ".avi") -> Archive:
    """Reads what an archive holds.

    Args:
        path: The RAR or zip file.
        suffix: What the names of the files wanted end in, in small letters.

    Raises:
        UserError: If it is neither RAR nor zip, is damaged or encrypted, holds links or names that
            lead elsewhere, is far larger than UCF101, or if the means to read RAR are absent.
    """
    is_zip = zipfile.is_zipfile(path)
    members = zip_members(path) if is_zip else rar_members(path)
    check_sizes(path, members)
    clips: dict[str, Member] = {}
    repeated = 0
    for member in members:
        if not member.key.endswith(suffix) or member.key.startswith(".") or member.size == 0:
            continue
        known = clips.setdefault(member.key, member)
        if (known.size, known.crc) != (member.size, member.crc):
            raise UserError(
                f"{path}: holds {known.name} and {member.name}, which differ; unpack it, remove "
                "the one that is wrong, and give the folder"
            )
        repeated += known is not member
    return Archive(path, members, clips, repeated, is_zip)


def _write(member: Member, chunks: Iterator[bytes], target: Path, progress: Progress) -> None:
    crc = size = 0
    try:
        with appearing(target) as temporary:
            with temporary.open("xb") as file:
                for chunk in chunks:
                    file.write(chunk)
                    crc, size = zlib.crc32(chunk, crc), size + len(chunk)
                    progress.advance(len(chunk))
            if size != member.size or (member.crc is not None and crc != member.crc):
                raise DamagedError(f"{member.name} comes out damaged")
    except OSError as error:
        raise UserError(f"{target}: cannot be written ({error.strerror or error})") from error


def _check_room(folder: Path, needed: int) -> None:
    free = shutil.disk_usage(folder).free
    if free < needed:
        raise UserError(
            f"{folder}: {free / 2**30:.1f} GiB free, {needed / 2**30:.1f} GiB needed; make room or "
            "choose another --out"
        )
