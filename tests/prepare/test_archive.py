"""UCF101 out of archives: RAR 4, RAR 5 and zip, and what is refused."""

from __future__ import annotations

import os
import shutil
import stat
import struct
import subprocess
import sys
import zipfile
from pathlib import Path

import pytest

from helpers.archives import CLIPS, Files, rar4, rar5, zipped
from p3d.errors import UserError
from p3d.prepare import members
from p3d.prepare.archive import open_archive
from p3d.prepare.options import Ucf101Options
from p3d.prepare.rar import UNPACKERS, find_unpackers
from p3d.prepare.ucf101 import prepare_ucf101
from p3d.system.files import TEMPORARY

WRITERS = {"rar4": rar4, "rar5": rar5, "zip": zipped}


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """A folder with the lists of a UCF101 of one class."""
    lists = tmp_path / "ucfTrainTestlist"
    lists.mkdir()
    (lists / "classInd.txt").write_text("1 YoYo\n")
    names = [name.removeprefix("UCF-101/") for name, _ in CLIPS]
    (lists / "testlist01.txt").write_text("\n".join(names[:7]))
    (lists / "trainlist01.txt").write_text("\n".join(f"{name} 1" for name in names[7:]))
    return tmp_path


def need(kind: str) -> None:
    """Skips where RAR cannot be read on this machine."""
    if kind != "zip":
        pytest.importorskip("rarfile", reason="reading RAR needs the rarfile package")
        if not find_unpackers():
            pytest.skip(f"reading RAR needs one of {', '.join(UNPACKERS)}: none installed")


def made(out: Path) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in out.glob("*/YoYo/*")}


@pytest.mark.parametrize("kind", WRITERS)
def test_clips_come_out_whole_and_a_killed_run_goes_on(folder: Path, kind: str) -> None:
    need(kind)
    source = WRITERS[kind](folder / "source", [*CLIPS, ("UCF-101/notes.txt", b"no clip")])
    before = source.read_bytes()
    out = folder / "out"
    options = Ucf101Options(source, out)

    summary = prepare_ucf101(options)

    assert summary.present == {"train": 15, "validation": 3, "test": 7}
    assert made(out) == {name.rpartition("/")[2]: data for name, data in CLIPS}
    (out / "test" / "YoYo" / "v_YoYo_g02_c01.avi").unlink()
    (out / "train" / "YoYo" / f"{TEMPORARY}x").write_bytes(b"half")
    assert prepare_ucf101(options).kept == 24
    assert made(out) == {name.rpartition("/")[2]: data for name, data in CLIPS}
    assert source.read_bytes() == before


@pytest.mark.parametrize("kind", WRITERS)
def test_damaged_clips_are_found_out(folder: Path, kind: str) -> None:
    need(kind)
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
def test_cut_archives_are_found_out(folder: Path, kind: str) -> None:
    need(kind)
    source = WRITERS[kind](folder / "source", CLIPS)
    source.write_bytes(source.read_bytes()[: source.stat().st_size // 2])
    with pytest.raises(UserError):
        prepare_ucf101(Ucf101Options(source, folder / "out"))


@pytest.mark.parametrize("name", ["../v_YoYo_g01_c01.avi", "/tmp/v_YoYo_g01_c01.avi", "C:/v.avi"])
@pytest.mark.parametrize("kind", WRITERS)
def test_names_that_lead_elsewhere_are_refused(folder: Path, kind: str, name: str) -> None:
    if kind != "zip":
        pytest.importorskip("rarfile", reason="reading RAR needs the rarfile package")
    source = WRITERS[kind](folder / "source", [(name, b"x"), *CLIPS])
    with pytest.raises(UserError, match="leads out of"):
        open_archive(source)


def test_links_are_refused(tmp_path: Path) -> None:
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


@pytest.mark.parametrize("limit", ["MOST_MEMBERS", "LARGEST_MEMBER_BYTES", "LARGEST_TOTAL_BYTES"])
def test_bombs_are_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, limit: str) -> None:
    source = zipped(tmp_path / "source", CLIPS)
    monkeypatch.setattr(members, limit, 10)
    with pytest.raises(UserError, match="more than 10; refused"):
        open_archive(source)


def test_a_zip_that_lies_about_a_size_gives_no_more_than_promised(folder: Path) -> None:
    source = zipped(folder / "source", CLIPS)
    data, size = source.read_bytes(), len(CLIPS[0][1])
    source.write_bytes(data.replace(struct.pack("<I", size), struct.pack("<I", 100)))
    with pytest.raises(UserError, match="again"):
        prepare_ucf101(Ucf101Options(source, folder / "out"))


def test_equal_clips_count_as_repeated_and_unequal_ones_are_refused(tmp_path: Path) -> None:
    name, data = CLIPS[0]
    source = zipped(tmp_path / "source", [*CLIPS, (f"again/{name}", data)])
    assert open_archive(source).repeated == 1
    zipped(source, [*CLIPS, (f"again/{name}", data[::-1])])
    with pytest.raises(UserError, match="which differ"):
        open_archive(source)


def test_neither_rar_nor_zip(tmp_path: Path) -> None:
    pytest.importorskip("rarfile", reason="reading RAR needs the rarfile package")
    path = tmp_path / "UCF101.rar"
    path.write_text("<html>not found</html>")
    with pytest.raises(UserError, match="neither a RAR nor a zip"):
        open_archive(path)


def test_without_an_unpacker_the_remedy_is_named(
    folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    pytest.importorskip("rarfile", reason="reading RAR needs the rarfile package")
    monkeypatch.setenv("PATH", str(folder))
    with pytest.raises(UserError, match="install one of unrar"):
        prepare_ucf101(Ucf101Options(rar4(folder / "source", CLIPS), folder / "out"))


@pytest.fixture
def programs(folder: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The one folder where programs are looked for."""
    if sys.platform == "win32":
        pytest.skip("puts shell scripts in the place of unpackers")
    monkeypatch.setenv("PATH", str(folder / "bin"))
    (folder / "bin").mkdir()
    return folder / "bin"


def program(path: Path, lines: str) -> None:
    path.write_text(f"#!/bin/sh\nPATH={os.defpath}\n{lines}\n")
    path.chmod(0o755)


def unpacker(path: Path, clips: Files) -> None:
    """A program that writes these clips whatever it is asked for."""
    contents = path.with_suffix(".contents")
    contents.write_bytes(b"".join(data for _, data in clips))
    program(path, f"cat {contents}")


def test_what_one_unpacker_cannot_read_the_next_one_may(folder: Path, programs: Path) -> None:
    pytest.importorskip("rarfile", reason="reading RAR needs the rarfile package")
    unpacker(programs / "bsdtar", CLIPS[:3])
    unpacker(programs / "unar", CLIPS)
    prepare_ucf101(Ucf101Options(rar4(folder / "source", CLIPS), folder / "out"))
    assert made(folder / "out") == {name.rpartition("/")[2]: data for name, data in CLIPS}


def test_what_no_unpacker_can_read_is_told_in_their_words(folder: Path, programs: Path) -> None:
    pytest.importorskip("rarfile", reason="reading RAR needs the rarfile package")
    program(programs / "bsdtar", "echo 'solid archive support unavailable' >&2; exit 1")
    program(programs / "unar", "exit 1")
    with pytest.raises(UserError) as caught:
        prepare_ucf101(Ucf101Options(rar4(folder / "source", CLIPS), folder / "out"))
    assert str(caught.value) == (
        f"{folder / 'source'}: v_YoYo_g01_c01.avi comes out damaged (bsdtar: solid archive support "
        "unavailable); v_YoYo_g01_c01.avi comes out damaged (unar); download the archive again, or "
        "unpack it with unrar or 7-Zip and give the folder"
    ).replace("v_YoYo", "UCF-101/YoYo/v_YoYo")


def test_programs_that_only_bear_an_unpackers_name_are_passed_over(programs: Path) -> None:
    """Debian's unrar-free is called unrar, and its 7-Zip comes without RAR."""
    program(programs / "unrar", "echo 'unrar-free 0.1.3  Copyright (C) 2004  Ben Asselstine'")
    program(programs / "7zz", "echo 'Formats: 7z zip tar'")
    assert find_unpackers() == ()
    program(programs / "unrar", "echo 'UNRAR 6.21 freeware  Copyright (c) 1993 Alexander Roshal'")
    program(programs / "7z", "echo '40303 Rar3'")
    assert find_unpackers() == (str(programs / "unrar"), str(programs / "7z"))


@pytest.mark.parametrize("solid", [False, True], ids=["separate", "solid"])
@pytest.mark.parametrize("version", [4, 5])
def test_compressed_rars(folder: Path, version: int, solid: bool) -> None:
    """With the archiver itself, where it is installed: nobody else may write such files."""
    need("rar")
    rar = shutil.which("rar")
    if rar is None:
        pytest.skip("making compressed RARs needs the program rar: not installed")
    for name, data in CLIPS:
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_bytes(data)
    switches = ["-r", "-m5", f"-ma{version}", *(["-s"] if solid else [])]
    made_rar = subprocess.run([rar, "a", *switches, "source.rar", "UCF-101"], cwd=folder)
    if made_rar.returncode != 0:
        pytest.skip(f"this rar makes no RAR {version}")
    assert (folder / "source.rar").stat().st_size < sum(len(data) for _, data in CLIPS) / 10
    shutil.rmtree(folder / "UCF-101")
    prepare_ucf101(Ucf101Options(folder / "source.rar", folder / "out"))
    assert made(folder / "out") == {name.rpartition("/")[2]: data for name, data in CLIPS}


def test_without_the_library_the_remedy_is_named(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(__import__("sys").modules, "rarfile", None)
    with pytest.raises(UserError, match=r"pip install 'p3d\[ucf101\]'"):
        open_archive(rar4(tmp_path / "source", CLIPS))


def test_a_full_disk_is_told_before_unpacking(
    folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    usage = shutil.disk_usage(folder)
    monkeypatch.setattr(shutil, "disk_usage", lambda _: usage._replace(free=1000))
    with pytest.raises(UserError, match="make room"):
        prepare_ucf101(Ucf101Options(zipped(folder / "source", CLIPS), folder / "out"))
    assert not made(folder / "out")
