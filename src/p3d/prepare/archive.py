"""Clips from a RAR or zip archive, read in one pass with all checksums verified."""

from __future__ import annotations

import shutil
import stat
import tempfile
import zipfile
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path

from p3d.errors import UserError
from p3d.prepare.members import (
    LARGEST_LISTS_BYTES,
    DamagedError,
    Member,
    Opener,
    Reader,
    Verifier,
    check_entry,
    check_sizes,
    read_member,
)
from p3d.prepare.rar import RAR_START, rar_members, rar_openers
from p3d.system.files import replacing, writing
from p3d.system.progress import ProgressBar


@dataclass(frozen=True)
class Archive:
    """An archive that passed the checks of `open_archive`.

    Attributes:
        path: The file.
        members: All files in it, in order.
        clips: The files with the requested suffix by their name in lower case, without empty and
            hidden ones.
        repeated: Number of further files that are equal to one of the clips.
        is_zip: Whether it is a zip, whose members can be skipped, or a RAR.
    """

    path: Path
    members: tuple[Member, ...]
    clips: Mapping[str, Member]
    repeated: int
    is_zip: bool

    def is_same(self, key: str, target: Path) -> bool:
        """Return whether a target has the size of a clip."""
        return target.stat().st_size == self.clips[key].size

    def extract(self, targets: Mapping[str, Path]) -> None:
        """Unpack clips. A target is complete or absent.

        If an unpacker fails, the next installed one continues.

        Args:
            targets: Paths of the wanted clips, by key of `clips`. The folders must exist.

        Raises:
            UserError: The disk has too little space, or the archive is damaged.
        """
        if not targets:
            return
        wanted = {id(self.clips[key]): target for key, target in targets.items()}
        folder = next(iter(targets.values())).parent
        _check_free_space(folder, sum(self.clips[key].size for key in targets))
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

    def extract_all(self, folder: Path) -> None:
        """Unpack all clips under their own names, except those that are there already."""
        folder.mkdir(parents=True, exist_ok=True)
        targets = {key: folder / clip.file_name for key, clip in self.clips.items()}
        kept = {key for key, path in targets.items() if path.is_file() and self.is_same(key, path)}
        self.extract({key: path for key, path in targets.items() if key not in kept})

    def _extract(self, wanted: dict[int, Path], opener: Opener) -> None:
        """Write the wanted members and remove them from `wanted`."""
        total = sum(member.size for member in self.members if id(member) in wanted)
        title = f"Unpacking {self.path.name}"
        with ProgressBar(total, title, "B") as progress, opener(self.path) as read:
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
    """Read the table of contents of an archive.

    Args:
        path: The RAR or zip file.
        suffix: Suffix of the files wanted, in lower case.

    Raises:
        UserError: It is neither RAR nor zip, is damaged, encrypted or far larger than UCF101, holds
            links, unsafe names, different files of one name or files without a checksum, or rarfile
            is not installed.
    """
    is_zip = _is_zip(path)
    members = zip_members(path) if is_zip else rar_members(path)
    check_sizes(path, members)
    clips: dict[str, Member] = {}
    repeated = 0
    for member in members:
        if not member.key.endswith(suffix) or member.key.startswith(".") or member.size == 0:
            continue
        if not member.verifiable:
            raise UserError(
                f"{path}: has no checksum of {member.name}, so damage would go unnoticed; unpack "
                "it with unrar or 7-Zip and give the folder"
            )
        known = clips.setdefault(member.key, member)
        if replace(known, name=member.name) != member:
            raise UserError(
                f"{path}: holds {known.name} and {member.name}, which differ; unpack it, remove "
                "the wrong one, and give the folder"
            )
        repeated += known is not member
    return Archive(path, members, clips, repeated, is_zip)


@contextmanager
def text_folder(source: Path) -> Iterator[Path]:
    """Give a folder as it is, or one with the unpacked text files of an archive."""
    if not source.is_file():
        yield source
        return
    archive = open_archive(source, ".txt")
    total = sum(member.size for member in archive.clips.values())
    if total > LARGEST_LISTS_BYTES:
        raise UserError(
            f"{source}: its lists unpack to {total:,} bytes, more than {LARGEST_LISTS_BYTES:,}; "
            "refused"
        )
    with tempfile.TemporaryDirectory(prefix="p3d-lists-") as folder:
        archive.extract_all(Path(folder))
        yield Path(folder)


def _write(member: Member, chunks: Iterator[bytes], target: Path, progress: ProgressBar) -> None:
    verifier = Verifier(member)
    with writing(target), replacing(target, flush=False) as temporary:
        with temporary.open("xb") as file:
            for chunk in chunks:
                file.write(chunk)
                verifier.update(chunk)
                progress.advance(len(chunk))
        if not verifier.matches():
            raise DamagedError(f"{member.name} is damaged")


def _check_free_space(folder: Path, needed: int) -> None:
    free = shutil.disk_usage(folder).free
    if free < needed:
        raise UserError(
            f"{folder}: {free / 2**30:.1f} GiB free, {needed / 2**30:.1f} GiB needed; make room or "
            "choose another --out"
        )


def is_archive(path: Path) -> bool:
    """Return whether a file begins like a RAR, or is a zip."""
    return _is_rar(path) or _is_zip(path)


def _is_rar(path: Path) -> bool:
    with path.open("rb") as file:
        return file.read(len(RAR_START)) == RAR_START


def _is_zip(path: Path) -> bool:
    """Return whether a file is a zip, and not a RAR with a zip in it."""
    try:
        return not _is_rar(path) and zipfile.is_zipfile(path)
    except Exception as error:  # zipfile's own code lets several kinds through
        raise UserError(f"{path}: cannot be read ({error})") from error


def zip_members(path: Path) -> tuple[Member, ...]:
    """Return the files in a zip.

    Raises:
        UserError: It is damaged or encrypted, or holds links or unsafe names.
    """
    members = []
    try:
        with zipfile.ZipFile(path) as archive:
            for info in archive.infolist():
                link = stat.S_ISLNK(info.external_attr >> 16)
                check_entry(path, info.filename, link=link, encrypted=bool(info.flag_bits & 1))
                if not info.is_dir():
                    members.append(Member(info.filename, info.file_size, info.CRC))
    except UserError:
        raise
    except Exception as error:  # damaged zips raise some ten kinds of errors
        raise UserError(f"{path}: not a readable zip ({error}); download it again") from error
    return tuple(members)


@contextmanager
def zip_contents(path: Path) -> Iterator[Reader]:
    """Open a zip for reading contents."""
    with zipfile.ZipFile(path) as archive:

        def read(member: Member) -> Iterator[bytes]:
            try:
                with archive.open(member.name) as file:
                    yield from read_member(file, member)
            except Exception as error:  # of several decompressors
                raise DamagedError(f"{member.name} is damaged ({error})") from error

        yield read
