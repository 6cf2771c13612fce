"""RAR archives, read by the `rarfile` package and whatever unpacker the machine has.

RAR has no free writer or full reader: the package reads the headers, and one of the common
unpackers writes the contents of all members, one after the other, into a pipe, which the headers
cut into clips. So 13,320 clips cost one process.
"""

from __future__ import annotations

import shutil
import subprocess
import tempfile
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from functools import partial
from pathlib import Path
from typing import IO

from p3d.errors import UserError, printable
from p3d.prepare.members import CHUNK_BYTES, DamagedError, Member, Opener, Reader, check_name

UNPACKERS: Mapping[str, tuple[str, ...]] = {
    "unrar": ("p", "-inul", "-p-", "--"),
    "7zz": ("e", "-so", "-bb0", "-p", "--"),
    "7z": ("e", "-so", "-bb0", "-p", "--"),
    "bsdtar": ("-x", "--to-stdout", "-f"),
    "unar": ("-quiet", "-output-directory", "-"),
}
"""Programs that write all members of a RAR to a pipe, the most able first.

The first three read everything. bsdtar lacks solid archives of RAR 4 and all of RAR 1.5 and 2;
unar has solid ones, but not every archive of RAR 5.
"""

_PROOF = {
    # Debian calls another program unrar too, one that would unpack into the working folder.
    "unrar": ((), "Alexander Roshal"),
    # Some systems leave the decoder out of 7-Zip for its licence.
    "7zz": (("i",), "Rar3"),
    "7z": (("i",), "Rar3"),
}
"""How to call a program to see that it is what its name says, and what it must answer."""

SECONDS_TO_COMPLAIN = 10.0


def rar_members(path: Path) -> tuple[Member, ...]:
    """The files in a RAR.

    Raises:
        UserError: It is none, damaged or encrypted, holds what is refused, or rarfile is absent.
    """
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
                check_name(path, info.filename, link=info.is_symlink() or bool(info.file_redir))
                if info.needs_password():
                    raise UserError(f"{path}: is encrypted; unpack it and give the folder")
                if info.is_file():
                    members.append(Member(info.filename, info.file_size, info.CRC))
    except (rarfile.Error, OSError) as error:
        raise UserError(f"{path}: not a readable RAR ({error}); download it again") from error
    return tuple(members)


def rar_openers(path: Path) -> tuple[Opener, ...]:
    """A way to read a RAR for each unpacker that the machine has, the most able first.

    Raises:
        UserError: It has none.
    """
    programs = find_unpackers()
    if not programs:
        raise UserError(
            f"{path}: no program to unpack RAR was found; install one of {', '.join(UNPACKERS)} "
            "(bsdtar is in Debian's libarchive-tools, 7z in 7-Zip for macOS and Windows), or "
            "unpack the archive elsewhere and give the folder"
        )
    return tuple(partial(_contents, program) for program in programs)


def find_unpackers() -> tuple[str, ...]:
    """The paths of those programs of `UNPACKERS` that are installed and can read RAR."""
    paths = {name: shutil.which(name) for name in UNPACKERS}
    return tuple(path for name, path in paths.items() if path is not None and _is_able(name, path))


def _is_able(name: str, path: str) -> bool:
    if name not in _PROOF:
        return True
    arguments, answer = _PROOF[name]
    call = subprocess.run(
        [path, *arguments], stdin=subprocess.DEVNULL, capture_output=True, check=False
    )
    return answer.encode() in call.stdout + call.stderr


@contextmanager
def _contents(program: str, path: Path) -> Iterator[Reader]:
    """Lets the program write all members to a pipe. What it says is added to a `DamagedError`."""
    name = Path(program).stem
    command = [program, *UNPACKERS[name], str(path.resolve())]
    with tempfile.TemporaryFile() as complaints:
        process = subprocess.Popen(
            command, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=complaints
        )
        assert process.stdout is not None
        try:
            yield _pipe_reader(process.stdout)
        except DamagedError as error:
            process.stdout.close()
            with suppress(subprocess.TimeoutExpired):
                process.wait(SECONDS_TO_COMPLAIN)
            raise DamagedError(f"{error} ({name}{_first_line(complaints)})") from error
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


def _first_line(complaints: IO[bytes]) -> str:
    complaints.seek(0)
    lines = complaints.read(2000).decode("utf-8", "replace").split("\n")
    line = next((line.strip() for line in lines if line.strip()), "")
    return f": {printable(line)}" if line else ""
