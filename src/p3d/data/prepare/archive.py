"""Clips straight out of a RAR or zip archive, in one pass and with every checksum verified.

The names inside an archive are never used as paths; an archive that tries to write elsewhere, or
to fill the disk, is refused all the same. RAR has no free writer or full reader: the `rarfile`
package reads the headers, and one of the common unpackers writes the contents of all members, one
after the other, into a pipe, which the headers cut into clips. So 13,320 clips cost one process.
"""

from __future__ import annotations

import shutil
import stat
import subprocess
import tempfile
import zipfile
import zlib
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, contextmanager
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import IO

from p3d.data.prepare.files import appearing
from p3d.data.prepare.progress import Progress
from p3d.errors import UserError

MOST_MEMBERS = 100_000
LARGEST_MEMBER_BYTES = 256 * 2**20
LARGEST_TOTAL_BYTES = 32 * 2**30
"""UCF101 has 13,320 clips, the largest of a few MiB, in all less than 7 GiB."""

CHUNK_BYTES = 2**20

UNPACKERS: Mapping[str, tuple[str, ...]] = {
    "unrar": ("p", "-inul", "-p-", "--"),
    "7zz": ("e", "-so", "-bb0", "-p", "--"),
    "7z": ("e", "-so", "-bb0", "-p", "--"),
    "bsdtar": ("-x", "--to-stdout", "-f"),
}
"""Programs that write all members of a RAR to a pipe, the most able first."""


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


@dataclass(frozen=True)
class Archive:
    """An archive of clips that was found fit to unpack.

    Attributes:
        path: The file.
        members: Its files, in order.
        clips: Its AVI files, or files of the kind that was asked for, by name in small letters;
            empty and hidden ones are left out.
        repeated: How many more files are equal to one of these.
        contents: Opens it for reading.
        skippable: Whether members may be passed over unread.
    """

    path: Path
    members: tuple[Member, ...]
    clips: Mapping[str, Member]
    repeated: int
    contents: Callable[[Path], AbstractContextManager[Reader]]
    skippable: bool

    def extract(self, targets: Mapping[str, Path]) -> None:
        """Unpacks clips, each whole or not at all.

        Args:
            targets: Where to write which clip, by name in small letters. The folders must exist.

        Raises:
            UserError: If the disk is too small or the archive damaged.
        """
        if not targets:
            return
        wanted = {id(self.clips[key]): target for key, target in targets.items()}
        total = sum(self.clips[key].size for key in targets)
        _check_room(next(iter(targets.values())).parent, total)
        title = f"Unpacking {self.path.name}"
        with Progress(total, title, "B") as progress, self.contents(self.path) as read:
            for member in self.members:
                target = wanted.pop(id(member), None)
                if target is not None:
                    _write(self.path, member, read(member), target, progress)
                elif not self.skippable:
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
    if zipfile.is_zipfile(path):
        members, contents, skippable = _zip_members(path), _zip_contents, True
    else:
        members, contents, skippable = _rar_members(path), _rar_contents, False
    _check_sizes(path, members)
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
    return Archive(path, members, clips, repeated, contents, skippable)


def _write(
    archive: Path, member: Member, chunks: Iterator[bytes], target: Path, progress: Progress
) -> None:
    crc = size = 0
    try:
        with appearing(target) as temporary:
            with temporary.open("xb") as file:
                for chunk in chunks:
                    file.write(chunk)
                    crc, size = zlib.crc32(chunk, crc), size + len(chunk)
                    progress.advance(len(chunk))
            if size != member.size or (member.crc is not None and crc != member.crc):
                raise UserError(
                    f"{archive}: {member.name} comes out damaged; download the archive again, or "
                    "unpack it with the full unrar and give the folder"
                )
    except OSError as error:
        raise UserError(f"{target}: cannot be written ({error.strerror or error})") from error


def _check_room(folder: Path, needed: int) -> None:
    free = shutil.disk_usage(folder).free
    if free < needed:
        raise UserError(
            f"{folder}: {free / 2**30:.1f} GiB free, {needed / 2**30:.1f} GiB needed; make room or "
            "choose another --out"
        )


def _check_sizes(path: Path, members: Sequence[Member]) -> None:
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


def _check_name(path: Path, name: str, *, link: bool) -> None:
    parts = PurePosixPath(name.replace("\\", "/")).parts
    if link or ".." in parts or name[:1] in ("/", "\\") or (parts and ":" in parts[0]):
        kind = "is a link" if link else "leads out of the archive's folder"
        raise UserError(f"{path}: entry {name!r} {kind}; refused, get the archive elsewhere")


def _zip_members(path: Path) -> tuple[Member, ...]:
    members = []
    try:
        with zipfile.ZipFile(path) as archive:
            for info in archive.infolist():
                _check_name(path, info.filename, link=stat.S_ISLNK(info.external_attr >> 16))
                if info.flag_bits & 1:
                    raise UserError(f"{path}: is encrypted; unpack it and give the folder")
                if not info.is_dir():
                    members.append(Member(info.filename, info.file_size, info.CRC))
    except (zipfile.BadZipFile, OSError) as error:
        raise UserError(f"{path}: not a readable zip ({error}); download it again") from error
    return tuple(members)


@contextmanager
def _zip_contents(path: Path) -> Iterator[Reader]:
    with zipfile.ZipFile(path) as archive:

        def read(member: Member) -> Iterator[bytes]:
            left = member.size
            try:
                with archive.open(member.name) as file:
                    while left > 0 and (chunk := file.read(min(CHUNK_BYTES, left))):
                        left -= len(chunk)
                        yield chunk
            except (zipfile.BadZipFile, NotImplementedError, zlib.error, EOFError) as error:
                raise UserError(f"{path}: {member.name}: {error}; download it again") from error

        yield read


def _rar_members(path: Path) -> tuple[Member, ...]:
    try:
        import rarfile  # type: ignore[import-not-found, import-untyped, unused-ignore]
    except ImportError as error:
        raise UserError(
            f"{path}: reading RAR needs the rarfile package; pip install 'p3d[ucf101]', or unpack "
            "the archive and give the folder"
        ) from error
    if not rarfile.is_rarfile(path):
        raise UserError(f"{path}: neither a RAR nor a zip archive; download it again")
    members = []
    try:
        with rarfile.RarFile(path) as archive:
            for info in archive.infolist():
                _check_name(path, info.filename, link=info.is_symlink() or bool(info.file_redir))
                if info.needs_password():
                    raise UserError(f"{path}: is encrypted; unpack it and give the folder")
                if info.is_file():
                    members.append(Member(info.filename, info.file_size, info.CRC))
    except (rarfile.Error, OSError) as error:
        raise UserError(f"{path}: not a readable RAR ({error}); download it again") from error
    return tuple(members)


@contextmanager
def _rar_contents(path: Path) -> Iterator[Reader]:
    program = find_unpacker()
    if program is None:
        raise UserError(
            f"{path}: no program to unpack RAR was found; install one of {', '.join(UNPACKERS)} "
            "(Debian: apt install unrar, or libarchive-tools; macOS and Windows: 7-Zip), or unpack "
            "the archive elsewhere and give the folder"
        )
    command = [program, *UNPACKERS[Path(program).stem], str(path.resolve())]
    with tempfile.TemporaryFile() as complaints:
        process = subprocess.Popen(
            command, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=complaints
        )
        assert process.stdout is not None
        try:
            yield _pipe_reader(process.stdout)
        finally:
            process.stdout.close()
            process.kill()
            process.wait()


def _pipe_reader(pipe: IO[bytes]) -> Reader:
    def read(member: Member) -> Iterator[bytes]:
        left = member.size
        while left > 0 and (chunk := pipe.read(min(CHUNK_BYTES, left))):
            left -= len(chunk)
            yield chunk

    return read


def find_unpacker() -> str | None:
    """The path of the first program of `UNPACKERS` that is installed and reads RAR, or None."""
    for name in UNPACKERS:
        path = shutil.which(name)
        if path is not None and (name not in ("7z", "7zz") or _reads_rar(path)):
            return path
    return None


def _reads_rar(seven_zip: str) -> bool:
    """Whether this build of 7-Zip has the decoder: some systems leave it out for its licence."""
    listing = subprocess.run([seven_zip, "i"], capture_output=True, text=True, check=False).stdout
    return "Rar3" in listing
