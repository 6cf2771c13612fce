"""Files are written completely or not at all."""

from __future__ import annotations

import errno
import os
import stat
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch

from helpers.disk import content, no_file_above
from p3d.errors import UserError
from p3d.model.network import create_model
from p3d.system.files import (
    TEMPORARY,
    check_place,
    link_or_copy,
    move_together,
    replacing,
    replacing_together,
    write_text,
    writing,
)
from p3d.weights.metadata import save_model


def names(folder: Path) -> list[str]:
    return [path.name for path in folder.iterdir()]


def test_a_file_is_replaced_at_the_end(tmp_path: Path) -> None:
    path = tmp_path / "figures.json"
    path.write_text("old")
    with replacing(path) as temporary:
        temporary.write_text("new")
        assert path.read_text() == "old"
    assert path.read_text() == "new"
    assert names(tmp_path) == ["figures.json"]


def write_half(path: Path) -> None:
    with replacing(path) as temporary:
        temporary.write_text("half of the new")
        raise OSError("the disk is full")


def test_a_failed_block_keeps_the_old_file(tmp_path: Path) -> None:
    path = tmp_path / "figures.json"
    path.write_text("old")
    with pytest.raises(OSError, match="the disk is full"):
        write_half(path)
    assert path.read_text() == "old"
    assert names(tmp_path) == ["figures.json"]


@pytest.mark.parametrize("is_link", [False, True])
def test_a_device_or_pipe_is_never_replaced(is_link: bool, tmp_path: Path) -> None:
    """As root, renaming a file to /dev/null would break the machine."""
    pipe = path = tmp_path / "pipe.json"
    os.mkfifo(pipe)
    if is_link:
        path = tmp_path / "link.json"
        path.symlink_to(pipe)
    with pytest.raises(
        UserError, match=r"json: cannot be written \(is a device or a pipe, no file"
    ):
        write_text(path, "new")
    with pytest.raises(UserError, match=r"--out .*json: is a device or a pipe, no file; give a "):
        check_place(path, "--out")
    assert pipe.is_fifo()
    assert path.is_symlink() == is_link
    assert len(names(tmp_path)) == 1 + is_link


@pytest.mark.skipif(not Path("/proc/self").exists(), reason="needs /proc")
def test_a_place_in_a_folder_that_cannot_be_written_is_refused(tmp_path: Path) -> None:
    folder = Path("/proc/self")  # nobody writes there, root included
    with pytest.raises(
        UserError, match=r"^--out /proc/self/x.csv: cannot be written \(\w.*\); give"
    ):
        check_place(folder / "x.csv", "--out")
    check_place(tmp_path / "x.csv", "--out")
    assert not names(tmp_path)


def test_the_next_write_overwrites_what_a_killed_one_left(tmp_path: Path) -> None:
    path = tmp_path / "last.pt"
    script = (
        "import os, signal; from pathlib import Path; from p3d.system.files import replacing\n"
        f"with replacing(Path({str(path)!r})) as temporary:\n"
        "    temporary.write_text('half')\n"
        "    os.kill(os.getpid(), signal.SIGKILL)\n"
    )
    for _ in range(2):
        subprocess.run([sys.executable, "-c", script], check=False)
        assert len(names(tmp_path)) == 1
    assert not path.exists()
    with replacing(path) as temporary:
        assert temporary.read_text() == ""
        temporary.write_text("whole")
    assert names(tmp_path) == ["last.pt"]
    assert path.read_text() == "whole"


@pytest.mark.parametrize("kind", ["file", "folder", "link", "second hard link"])
def test_without_flush_a_file_folder_or_link_is_renamed(kind: str, tmp_path: Path) -> None:
    source, target = tmp_path / "source", tmp_path / "target"
    source.write_text("text")
    if kind == "second hard link":
        target.hardlink_to(source)
    with replacing(target, flush=False) as temporary:
        assert temporary.name.startswith(TEMPORARY)
        assert not temporary.exists()
        match kind:
            case "file":
                temporary.write_text("text")
            case "folder":
                temporary.mkdir()
                (temporary / "frame.jpg").touch()
            case "link":
                temporary.symlink_to(source)
            case "second hard link":
                temporary.hardlink_to(source)
    assert sorted(names(tmp_path)) == ["source", "target"]
    assert names(target) == ["frame.jpg"] if kind == "folder" else target.read_text() == "text"


def write_half_a_folder(path: Path) -> None:
    with replacing(path, flush=False) as temporary:
        temporary.mkdir()
        (temporary / "frame.jpg").touch()
        raise OSError("the disk is full")


def test_a_failed_folder_is_deleted(tmp_path: Path) -> None:
    with pytest.raises(OSError, match="the disk is full"):
        write_half_a_folder(tmp_path / "frames")
    assert names(tmp_path) == []


OLD = {"a.csv": b"old", "done.json": b"old", "other.txt": b"old"}


def old_files(folder: Path) -> Path:
    """Return a folder with earlier results."""
    folder.mkdir()
    for name, text in OLD.items():
        (folder / name).write_bytes(text)
    return folder


def write_two(folder: Path, size: int) -> None:
    with replacing_together(folder, last="done.json") as drafts:
        for name in ("done.json", "a.csv"):
            write_text(drafts / name, "new")
        write_text(drafts / "b.csv", "x" * size)


def test_several_files_are_all_replaced_or_none(tmp_path: Path) -> None:
    folder = old_files(tmp_path / "test")
    message = r"test/b\.csv: cannot be written \(File too large\); check the folder and its disk$"
    with pytest.raises(UserError, match=message), no_file_above(4096):
        write_two(folder, 5000)
    assert content(folder) == OLD
    (folder / f"{TEMPORARY}files").mkdir()
    (folder / f"{TEMPORARY}files" / "killed.csv").touch()
    write_two(folder, 3)
    new = {"a.csv": b"new", "b.csv": b"xxx", "done.json": b"new", "other.txt": b"old"}
    assert content(folder) == new


@pytest.mark.parametrize("moved", [0, 1])
def test_a_kill_between_two_files_leaves_none_that_marks_them_complete(
    moved: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder, drafts = old_files(tmp_path / "test"), tmp_path / "drafts"
    drafts.mkdir()
    for name in ("done.json", "a.csv"):
        (drafts / name).write_text("new")
    rename, calls = Path.replace, []

    def rename_or_die(self: Path, target: Path) -> Path:
        if len(calls) == moved:
            raise KeyboardInterrupt
        calls.append(target)
        return rename(self, target)

    monkeypatch.setattr(Path, "replace", rename_or_die)
    with pytest.raises(KeyboardInterrupt):
        move_together(drafts, folder, last="done.json")
    expected = OLD | {"a.csv": b"new" if moved else b"old"}
    del expected["done.json"]
    assert content(folder) == expected


@pytest.mark.skipif(os.name == "nt", reason="Windows has no such permissions")
@pytest.mark.parametrize("umask", [0o022, 0o027])
def test_saved_weights_have_the_permissions_of_a_new_file(tmp_path: Path, umask: int) -> None:
    model = create_model("p3d63", num_classes=2)
    before = os.umask(umask)
    try:
        save_model(model, tmp_path / "m.safetensors")
        with replacing(tmp_path / "last.pt") as temporary:
            torch.save({"step": 1}, temporary)
    finally:
        os.umask(before)
    for path in tmp_path.iterdir():
        assert stat.S_IMODE(path.stat().st_mode) == 0o666 & ~umask


@pytest.mark.parametrize("kind", ["folder", "file"])
def test_a_file_system_that_cannot_flush_gets_one_warning(
    kind: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    flush = os.fsync

    def refuse(descriptor: int) -> None:
        if stat.S_ISDIR(os.fstat(descriptor).st_mode) == (kind == "folder"):
            raise OSError(errno.EINVAL, os.strerror(errno.EINVAL))
        flush(descriptor)

    monkeypatch.setattr(os, "fsync", refuse)
    for text in ("one", "two"):
        write_text(tmp_path / "figures.json", text)
    assert (tmp_path / "figures.json").read_text() == "two"
    warning = capsys.readouterr().err
    assert warning.startswith(f"p3d: warning: {tmp_path}: this file system cannot flush (Invalid")
    assert warning.count("\n") == 1


def test_on_windows_files_are_flushed_and_folders_are_not(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """Windows opens no folder, and flushes a file only through a handle that can write."""
    fcntl = pytest.importorskip("fcntl")
    flushed = []

    def open_like_windows(path: Path, flags: int, mode: int = 0o777) -> int:
        if Path(path).is_dir():
            raise PermissionError(errno.EACCES, os.strerror(errno.EACCES))
        return real_open(path, flags, mode)

    def flush_like_windows(descriptor: int) -> None:
        if fcntl.fcntl(descriptor, fcntl.F_GETFL) & os.O_ACCMODE == os.O_RDONLY:
            raise OSError(errno.EBADF, os.strerror(errno.EBADF))
        flushed.append(os.fstat(descriptor).st_size)

    real_open = os.open
    monkeypatch.setattr("p3d.system.files._FLUSHES_FOLDERS", False)
    monkeypatch.setattr(os, "open", open_like_windows)
    monkeypatch.setattr(os, "fsync", flush_like_windows)
    write_text(tmp_path / "figures.json", "four")
    assert flushed == [4]
    assert capsys.readouterr().err == ""


def test_a_disk_that_fails_to_flush_is_an_error(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail(_: int) -> None:
        raise OSError(errno.EIO, os.strerror(errno.EIO))

    monkeypatch.setattr(os, "fsync", fail)
    with pytest.raises(UserError, match="cannot be written"):
        write_text(tmp_path / "figures.json", "one")


def test_a_failed_write_names_file_reason_and_remedy(tmp_path: Path) -> None:
    path = tmp_path / "missing" / "figures.json"
    message = r"figures\.json: cannot be written \(No such file or directory\); check the folder"
    with pytest.raises(UserError, match=message):
        write_text(path, "one")


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="needs /dev/full")
def test_a_reason_without_a_number_is_named() -> None:
    """NumPy reports a full disk without the system's error."""
    message = r"a\.npy: cannot be written \(4000 requested and 0 written\); make room$"
    with pytest.raises(UserError, match=message), writing(Path("a.npy"), "make room"):
        np.zeros(4000).tofile("/dev/full")


def test_second_name_is_a_link_or_a_copy(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    source, target = tmp_path / "source", tmp_path / "target"
    source.write_bytes(b"new")
    target.write_bytes(b"old")
    link_or_copy(source, target)
    assert target.samefile(source)

    def refuse(*_: object) -> None:
        raise OSError(errno.EPERM, os.strerror(errno.EPERM))

    monkeypatch.setattr(Path, "hardlink_to", refuse)
    link_or_copy(source, target)
    assert not target.samefile(source)
    assert target.read_bytes() == b"new"
    target.unlink()
    (target / "in the way").mkdir(parents=True)
    with pytest.raises(UserError, match="target: cannot be written"):
        link_or_copy(source, target)
    assert {path.name for path in tmp_path.iterdir()} == {"source", "target"}
