"""UCF101 from RAR 4, RAR 5 and zip archives, and archives that are refused."""

from __future__ import annotations

import os
import random
import shutil
import stat
import struct
import subprocess
import sys
import zipfile
import zlib
from pathlib import Path

import pytest

from helpers.archives import CLIPS, Files, rar4, rar5, zipped
from p3d.errors import UserError
from p3d.prepare import archive, members
from p3d.prepare.archive import open_archive
from p3d.prepare.lists import read_lists
from p3d.prepare.members import Blake2sp
from p3d.prepare.options import Ucf101Options
from p3d.prepare.rar import RAR_START, UNPACKERS, find_unpackers
from p3d.prepare.ucf101 import prepare_ucf101
from p3d.system.files import TEMPORARY

WRITERS = {"rar4": rar4, "rar5": rar5, "zip": zipped}


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """A folder with UCF101-like lists of one class."""
    lists = tmp_path / "ucfTrainTestlist"
    lists.mkdir()
    (lists / "classInd.txt").write_text("1 YoYo\n")
    names = [name.removeprefix("UCF-101/") for name, _ in CLIPS]
    (lists / "testlist01.txt").write_text("\n".join(names[:7]))
    (lists / "trainlist01.txt").write_text("\n".join(f"{name} 1" for name in names[7:]))
    return tmp_path


def skip_unless_readable(kind: str) -> None:
    """Skip where RAR cannot be read on this machine."""
    if kind != "zip":
        pytest.importorskip("rarfile", reason="reading RAR needs the rarfile package")
        if not find_unpackers():
            pytest.skip(f"reading RAR needs one of {', '.join(UNPACKERS)}: none installed")


def prepared_clips(out: Path) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in out.glob("*/YoYo/*")}


@pytest.mark.parametrize("kind", WRITERS)
def test_extracts_all_clips_and_resumes(folder: Path, kind: str) -> None:
    skip_unless_readable(kind)
    source = WRITERS[kind](folder / "source", [*CLIPS, ("UCF-101/notes.txt", b"no clip")])
    before = source.read_bytes()
    out = folder / "out"
    options = Ucf101Options(source, out)

    summary = prepare_ucf101(options)

    assert summary.present == {"train": 15, "validation": 3, "test": 7}
    assert prepared_clips(out) == {name.rpartition("/")[2]: data for name, data in CLIPS}
    (out / "test" / "YoYo" / "v_YoYo_g02_c01.avi").unlink()
    (out / "train" / "YoYo" / f"{TEMPORARY}x").write_bytes(b"half")
    assert prepare_ucf101(options).kept == 24
    assert prepared_clips(out) == {name.rpartition("/")[2]: data for name, data in CLIPS}
    assert source.read_bytes() == before


@pytest.mark.parametrize("kind", WRITERS)
def test_damaged_clips_are_refused(folder: Path, kind: str) -> None:
    skip_unless_readable(kind)
    source = WRITERS[kind](folder / "source", CLIPS)
    data = bytearray(source.read_bytes())
    middle = len(data) // 2
    data[middle : middle + 64] = bytes(64)
    source.write_bytes(data)
    with pytest.raises(UserError, match=r"download (it|the archive) again"):
        prepare_ucf101(Ucf101Options(source, folder / "out"))
    assert not list((folder / "out").glob(f"*/*/{TEMPORARY}*"))
    assert not (folder / "out" / "ucfTrainTestlist").exists()


@pytest.mark.parametrize("kind", WRITERS)
def test_truncated_archives_are_refused(folder: Path, kind: str) -> None:
    skip_unless_readable(kind)
    source = WRITERS[kind](folder / "source", CLIPS)
    source.write_bytes(source.read_bytes()[: source.stat().st_size // 2])
    with pytest.raises(UserError):
        prepare_ucf101(Ucf101Options(source, folder / "out"))


@pytest.mark.parametrize("name", ["../v_YoYo_g01_c01.avi", "/tmp/v_YoYo_g01_c01.avi", "C:/v.avi"])
@pytest.mark.parametrize("kind", WRITERS)
def test_names_that_lead_outside_are_refused(folder: Path, kind: str, name: str) -> None:
    if kind != "zip":
        pytest.importorskip("rarfile", reason="reading RAR needs the rarfile package")
    source = WRITERS[kind](folder / "source", [(name, b"x"), *CLIPS])
    with pytest.raises(UserError, match="leads out of"):
        open_archive(source)


def test_links_in_a_zip_are_refused(tmp_path: Path) -> None:
    path = tmp_path / "source.zip"
    with zipfile.ZipFile(path, "w") as writer:
        link = zipfile.ZipInfo("YoYo/v_YoYo_g01_c01.avi")
        link.external_attr = (stat.S_IFLNK | 0o777) << 16
        writer.writestr(link, "/etc/passwd")
    with pytest.raises(UserError, match="is a link"):
        open_archive(path)


def test_links_in_a_rar_are_refused(tmp_path: Path) -> None:
    pytest.importorskip("rarfile", reason="reading RAR needs the rarfile package")
    path = rar4(tmp_path / "source", [("v_a.avi", b"/etc/passwd")], mode=stat.S_IFLNK | 0o777)
    with pytest.raises(UserError, match="is a link"):
        open_archive(path)


def test_encrypted_archives_are_refused(tmp_path: Path) -> None:
    pytest.importorskip("rarfile", reason="reading RAR needs the rarfile package")
    with pytest.raises(UserError, match="encrypted"):
        open_archive(rar4(tmp_path / "source", [("v_a.avi", b"x")], flags=4))


def test_archives_with_encrypted_names_are_refused(tmp_path: Path) -> None:
    pytest.importorskip("rarfile", reason="reading RAR needs the rarfile package")
    # The encryption header of RAR 5: size, type 4, flags, version, check value, log2(rounds), salt.
    header = bytes([21, 4, 0, 0, 0, 15]) + bytes(16)
    path = tmp_path / "source"
    path.write_bytes(RAR_START + b"\x01\0" + zlib.crc32(header).to_bytes(4, "little") + header)
    with pytest.raises(UserError, match="is encrypted"):
        open_archive(path)


@pytest.mark.parametrize("limit", ["MOST_MEMBERS", "LARGEST_MEMBER_BYTES", "LARGEST_TOTAL_BYTES"])
def test_archives_that_would_fill_the_disk_are_refused(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, limit: str
) -> None:
    source = zipped(tmp_path / "source", CLIPS)
    monkeypatch.setattr(members, limit, 10)
    with pytest.raises(UserError, match="more than 10; refused"):
        open_archive(source)


def test_zip_members_larger_than_stated_are_refused(folder: Path) -> None:
    source = zipped(folder / "source", CLIPS)
    data, size = source.read_bytes(), len(CLIPS[0][1])
    source.write_bytes(data.replace(struct.pack("<I", size), struct.pack("<I", 100)))
    with pytest.raises(UserError, match="again"):
        prepare_ucf101(Ucf101Options(source, folder / "out"))


def test_repeated_clips_are_counted_if_equal_and_refused_if_not(tmp_path: Path) -> None:
    name, data = CLIPS[0]
    source = zipped(tmp_path / "source", [*CLIPS, (f"again/{name}", data)])
    assert open_archive(source).repeated == 1
    zipped(source, [*CLIPS, (f"again/{name}", data[::-1])])
    with pytest.raises(UserError, match="which differ"):
        open_archive(source)


def test_other_files_are_refused(tmp_path: Path) -> None:
    pytest.importorskip("rarfile", reason="reading RAR needs the rarfile package")
    path = tmp_path / "UCF101.rar"
    path.write_text("<html>not found</html>")
    with pytest.raises(UserError, match="neither a RAR nor a zip"):
        open_archive(path)


def test_missing_unpacker(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    pytest.importorskip("rarfile", reason="reading RAR needs the rarfile package")
    monkeypatch.setenv("PATH", str(folder))
    with pytest.raises(UserError, match="install one of unrar"):
        prepare_ucf101(Ucf101Options(rar4(folder / "source", CLIPS), folder / "out"))


@pytest.fixture
def programs(folder: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The only folder on PATH."""
    if sys.platform == "win32":
        pytest.skip("replaces unpackers by shell scripts")
    monkeypatch.setenv("PATH", str(folder / "bin"))
    (folder / "bin").mkdir()
    return folder / "bin"


def write_program(path: Path, lines: str) -> None:
    path.write_text(f"#!/bin/sh\nPATH={os.defpath}\n{lines}\n")
    path.chmod(0o755)


def write_unpacker(path: Path, clips: Files) -> None:
    """Write a program that always prints these clips."""
    contents = path.with_suffix(".contents")
    contents.write_bytes(b"".join(data for _, data in clips))
    write_program(path, f"cat {contents}")


def test_next_unpacker_continues_after_a_failure(folder: Path, programs: Path) -> None:
    pytest.importorskip("rarfile", reason="reading RAR needs the rarfile package")
    write_unpacker(programs / "bsdtar", CLIPS[:3])
    write_unpacker(programs / "unar", CLIPS)
    prepare_ucf101(Ucf101Options(rar4(folder / "source", CLIPS), folder / "out"))
    assert prepared_clips(folder / "out") == {name.rpartition("/")[2]: data for name, data in CLIPS}


def test_failures_of_all_unpackers_are_reported(folder: Path, programs: Path) -> None:
    pytest.importorskip("rarfile", reason="reading RAR needs the rarfile package")
    write_program(programs / "bsdtar", "echo 'solid archive support unavailable' >&2; exit 1")
    write_program(programs / "unar", "exit 1")
    with pytest.raises(UserError) as caught:
        prepare_ucf101(Ucf101Options(rar4(folder / "source", CLIPS), folder / "out"))
    assert str(caught.value) == (
        f"{folder / 'source'}: v_YoYo_g01_c01.avi is damaged (bsdtar: solid archive support "
        "unavailable); v_YoYo_g01_c01.avi is damaged (unar); download the archive again, or "
        "unpack it with unrar or 7-Zip and give the folder"
    ).replace("v_YoYo", "UCF-101/YoYo/v_YoYo")


def blake2sp(data: bytes) -> bytes:
    rarfile = pytest.importorskip("rarfile", reason="reading RAR needs the rarfile package")
    digest: bytes = rarfile.Blake2SP(data).digest()
    return digest


def test_clips_with_blake2_checksums_are_verified(folder: Path, programs: Path) -> None:
    write_unpacker(programs / "bsdtar", CLIPS)
    digests = {name: blake2sp(data) for name, data in CLIPS}
    prepare_ucf101(Ucf101Options(rar5(folder / "source", CLIPS, digests=digests), folder / "out"))
    assert prepared_clips(folder / "out") == {name.rpartition("/")[2]: data for name, data in CLIPS}
    digests[CLIPS[3][0]] = bytes(32)
    source = rar5(folder / "source", CLIPS, digests=digests)
    with pytest.raises(UserError, match=r"g04_c01\.avi is damaged"):
        prepare_ucf101(Ucf101Options(source, folder / "other"))
    assert len(prepared_clips(folder / "other")) == 3


def test_clips_without_a_checksum_are_refused(folder: Path) -> None:
    digests = {name: blake2sp(data) for name, data in CLIPS[1:]}
    source = rar5(folder / "source", CLIPS, digests=digests)
    with pytest.raises(UserError, match=r"has no checksum of UCF-101/YoYo/v_YoYo_g01_c01\.avi"):
        prepare_ucf101(Ucf101Options(source, folder / "out"))


@pytest.mark.parametrize("size", [0, 1, 63, 64, 65, 511, 512, 513, 1000, 5000])
def test_blake2sp(size: int) -> None:
    data = random.Random(size).randbytes(size)
    for step in (7, 64, 700):
        checksum = Blake2sp()
        for start in range(0, size, step):
            checksum.update(data[start : start + step])
        assert checksum.digest() == blake2sp(data)


def test_a_rar_that_ends_with_a_zip_is_a_rar(tmp_path: Path) -> None:
    inner = zipped(tmp_path / "inner.zip", CLIPS[:1]).read_bytes()
    source = rar4(tmp_path / "source", [("a.zip", inner)])
    source.write_bytes(source.read_bytes() + inner)
    pytest.importorskip("rarfile", reason="reading RAR needs the rarfile package")
    assert not open_archive(source).is_zip


@pytest.mark.parametrize("kind", WRITERS)
def test_damaged_archives_raise_only_user_errors(tmp_path: Path, kind: str) -> None:
    pytest.importorskip("rarfile", reason="reading RAR needs the rarfile package")
    clips = [(f"{number}.avi", b"clip") for number in range(3)]
    data = WRITERS[kind](tmp_path / "source", clips).read_bytes()
    rng, path = random.Random(7), tmp_path / "damaged"
    messages = []
    for _ in range(400):
        damaged = bytearray(data)
        for position in rng.choices(range(len(data)), k=rng.randint(1, 4)):
            damaged[position] = rng.choice((0, 1, 0x7F, 0xFF, rng.randrange(256)))
        size = rng.choice((len(data), len(data), rng.randrange(len(data))))
        path.write_bytes(damaged[:size])
        try:
            opened = open_archive(path)
            if opened.is_zip:
                opened.extract_all(tmp_path / "out")
        except UserError as error:
            messages.append(str(error))
    assert len(messages) > 50
    assert "\n" not in "".join(messages)


def test_lists_that_would_fill_the_disk_are_refused(
    folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    source = zipped(folder / "lists.zip", [("classInd.txt", b"1 YoYo\n"), ("a.txt", b"x" * 90)])
    monkeypatch.setattr(archive, "LARGEST_LISTS_BYTES", 90)
    with pytest.raises(UserError, match="its lists unpack to 97 bytes, more than 90; refused"):
        read_lists(source, "public")


def test_programs_without_rar_support_are_ignored(programs: Path) -> None:
    """Debian installs unrar-free as unrar, and its 7-Zip has no RAR decoder."""
    write_program(programs / "unrar", "echo 'unrar-free 0.1.3  Copyright (C) 2004  Ben Asselstine'")
    write_program(programs / "7zz", "echo 'Formats: 7z zip tar'")
    assert find_unpackers() == ()
    write_program(
        programs / "unrar", "echo 'UNRAR 6.21 freeware  Copyright (c) 1993 Alexander Roshal'"
    )
    write_program(programs / "7z", "echo '40303 Rar3'")
    assert find_unpackers() == (str(programs / "unrar"), str(programs / "7z"))


@pytest.mark.parametrize("solid", [False, True], ids=["separate", "solid"])
@pytest.mark.parametrize("version", [4, 5])
def test_compressed_rars(folder: Path, version: int, solid: bool) -> None:
    """Only the program rar can write such files."""
    skip_unless_readable("rar")
    rar = shutil.which("rar")
    if rar is None:
        pytest.skip("needs the program rar to write compressed RARs")
    for name, data in CLIPS:
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_bytes(data)
    switches = ["-r", "-m5", f"-ma{version}", *(["-s"] if solid else [])]
    call = subprocess.run([rar, "a", *switches, "source.rar", "UCF-101"], cwd=folder)
    if call.returncode != 0:
        pytest.skip(f"this rar cannot write RAR {version}")
    assert (folder / "source.rar").stat().st_size < sum(len(data) for _, data in CLIPS) / 10
    shutil.rmtree(folder / "UCF-101")
    prepare_ucf101(Ucf101Options(folder / "source.rar", folder / "out"))
    assert prepared_clips(folder / "out") == {name.rpartition("/")[2]: data for name, data in CLIPS}


def test_missing_rarfile_package(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "rarfile", None)
    with pytest.raises(UserError, match=r"pip install 'p3d\[ucf101\]'"):
        open_archive(rar4(tmp_path / "source", CLIPS))


def test_disk_space_is_checked_before_unpacking(
    folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    usage = shutil.disk_usage(folder)
    monkeypatch.setattr(shutil, "disk_usage", lambda _: usage._replace(free=1000))
    with pytest.raises(UserError, match="make room"):
        prepare_ucf101(Ucf101Options(zipped(folder / "source", CLIPS), folder / "out"))
    assert not prepared_clips(folder / "out")
