"""RAR archives: headers are read by `rarfile`, contents by an unpacker installed on the machine.

The unpacker runs once and writes the contents of all members to a pipe, one after the other.
"""

from __future__ import annotations

import shutil
import subprocess
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from functools import partial
from pathlib import Path

from p3d.errors import UserError
from p3d.prepare.members import DamagedError, Member, Opener, Reader, check_entry, read_member
from p3d.prepare.programs import running

RAR_START = b"Rar!\x1a\x07"
"""The first bytes of every RAR."""

UNPACKERS: Mapping[str, tuple[str, ...]] = {
    "unrar": ("p", "-inul", "-p-", "--"),
    "7zz": ("e", "-so", "-bb0", "-p", "--"),
    "7z": ("e", "-so", "-bb0", "-p", "--"),
    "bsdtar": ("-x", "--to-stdout", "-f"),
    "unar": ("-quiet", "-output-directory", "-"),
}
"""Programs, and arguments to write all members of a RAR to stdout, in order of preference.

The first three read everything. bsdtar lacks solid archives of RAR 4 and all of RAR 1.5 and 2;
unar has solid ones, but not every archive of RAR 5.
"""

_CAPABILITY_CHECKS = {
    # Debian installs unrar-free as unrar, which would unpack into the working folder.
    "unrar": ((), "Alexander Roshal"),
    # Some systems remove the RAR decoder from 7-Zip because of its license.
    "7zz": (("i",), "Rar3"),
    "7z": (("i",), "Rar3"),
}
"""Arguments, and a text that the program prints if it can read RAR."""


def rar_members(path: Path) -> tuple[Member, ...]:
    """Return the files in a RAR.

    Raises:
        UserError: It is not a RAR, is damaged or encrypted, holds links or unsafe names, or rarfile
            is not installed.
    """
    try:
        import rarfile  # type: ignore[import-not-found, import-untyped, unused-ignore]
    except ImportError as error:
        raise UserError(
            f"{path}: is not a zip, and reading RAR needs the rarfile package; pip install "
            "'p3d[ucf101]', or unpack the archive and give the folder"
        ) from error
    members = []
    try:
        if not rarfile.is_rarfile(path):
            raise UserError(f"{path}: neither a RAR nor a zip archive; download it again")
        with rarfile.RarFile(path) as archive:
            if archive.needs_password():  # if the headers are encrypted too, there are no entries
                raise UserError(f"{path}: is encrypted; unpack it and give the folder")
            for info in archive.infolist():
                link = info.is_symlink() or bool(info.file_redir)
                check_entry(path, info.filename, link=link, encrypted=info.needs_password())
                if info.is_file():
                    digest = info.blake2sp_hash
                    members.append(Member(info.filename, info.file_size, info.CRC, digest))
    except UserError:
        raise
    except Exception as error:  # rarfile lets several kinds through
        raise UserError(f"{path}: not a readable RAR ({error}); download it again") from error
    return tuple(members)


def rar_openers(path: Path) -> tuple[Opener, ...]:
    """Return an opener for each installed unpacker, in order of preference.

    Raises:
        UserError: None is installed.
    """
    programs = find_unpackers()
    if not programs:
        raise UserError(
            f"{path}: no program to unpack RAR was found; install one of {', '.join(UNPACKERS)} "
            "(bsdtar is in Debian's libarchive-tools, 7z in 7-Zip for macOS and Windows), or "
            "unpack the archive elsewhere and give the folder"
        )
    return tuple(partial(_open_with, program) for program in programs)


def find_unpackers() -> tuple[str, ...]:
    """Return the paths of the installed `UNPACKERS` that can read RAR."""
    paths = {name: shutil.which(name) for name in UNPACKERS}
    return tuple(path for name, path in paths.items() if path and _can_read_rar(name, path))


def _can_read_rar(name: str, path: str) -> bool:
    if name not in _CAPABILITY_CHECKS:
        return True
    arguments, expected = _CAPABILITY_CHECKS[name]
    call = subprocess.run(
        [path, *arguments], stdin=subprocess.DEVNULL, capture_output=True, check=False
    )
    return expected.encode() in call.stdout + call.stderr


@contextmanager
def _open_with(program: str, path: Path) -> Iterator[Reader]:
    """Read a RAR by a program, and add the program's own message to a `DamagedError`."""
    name = Path(program).stem
    with running([program, *UNPACKERS[name], str(path.resolve())]) as unpacker:
        try:
            yield partial(read_member, unpacker.output)
        except DamagedError as error:
            _, message = unpacker.finish()
            source = f"{name}: {message}" if message else name
            raise DamagedError(f"{error} ({source})") from error
