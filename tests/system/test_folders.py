"""Folders of results are locked, and do not stay where a command fails at once."""

from __future__ import annotations

import errno
import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from p3d.errors import UserError
from p3d.system.folders import lock_folder, make_folder, results_folder


def names(folder: Path) -> list[str]:
    return [path.name for path in folder.iterdir()]


def lock_in_another_process(folder: Path) -> subprocess.Popen[str]:
    script = (
        "from pathlib import Path; from p3d.system.folders import make_folder, lock_folder\n"
        f"with lock_folder(Path({str(folder)!r})):\n"
        "    print('locked', flush=True); input()\n"
    )
    process = subprocess.Popen(
        [sys.executable, "-c", script], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    )
    assert process.stdout is not None
    assert process.stdout.readline() == "locked\n"
    return process


@pytest.mark.parametrize("end", ["exit", "SIGKILL"])
def test_a_folder_is_locked_until_its_process_ends(tmp_path: Path, end: str) -> None:
    process = lock_in_another_process(tmp_path)
    assert names(tmp_path) == [".lock"]
    with pytest.raises(UserError, match=f"{tmp_path}: another process is using this folder"):
        lock(tmp_path)
    if end == "SIGKILL":
        process.kill()
    process.communicate("\n")
    assert process.returncode == (-signal.SIGKILL if end == "SIGKILL" else 0)
    lock(tmp_path)


def fail_in(folder: Path, *, writes: bool) -> None:
    with results_folder(folder), lock_folder(folder):
        if writes:
            (folder / "log.jsonl").touch()
        raise UserError("wrong")


@pytest.mark.parametrize("below", ["", "parts", "a/b"])
def test_a_file_is_no_folder(below: str, tmp_path: Path) -> None:
    file = tmp_path / "film.mp4"
    file.touch()
    with pytest.raises(UserError, match=r"film.mp4: is a file, no folder; choose another --out"):
        make_folder(file / below)


def test_a_new_folder_stays_only_if_something_is_in_it(tmp_path: Path) -> None:
    folder = tmp_path / "runs" / "first"
    with pytest.raises(UserError, match="wrong"):
        fail_in(folder, writes=False)
    assert names(tmp_path) == []
    with pytest.raises(UserError, match="wrong"):
        fail_in(folder, writes=True)
    assert sorted(names(folder)) == [".lock", "log.jsonl"]
    (folder / "log.jsonl").unlink()
    with pytest.raises(UserError, match="wrong"):
        fail_in(folder, writes=False)
    assert names(folder) == []  # it was there before


def test_another_process_keeps_its_lock(tmp_path: Path) -> None:
    process = lock_in_another_process(tmp_path)
    with pytest.raises(UserError, match="another process is using this folder"):
        fail_in(tmp_path, writes=False)
    assert names(tmp_path) == [".lock"]
    process.communicate("\n")


def lock(folder: Path) -> None:
    with lock_folder(folder):
        pass


@pytest.mark.parametrize("code", [errno.ENOSYS, errno.ENOLCK])
def test_a_file_system_without_locks_gets_a_warning(
    code: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    fcntl = pytest.importorskip("fcntl")

    def refuse(*_: object) -> None:
        raise OSError(code, os.strerror(code))

    monkeypatch.setattr(fcntl, "flock", refuse)
    lock(tmp_path)
    warning = capsys.readouterr().err
    assert warning.startswith(f"p3d: warning: {tmp_path}: this file system has no locks")
    assert warning.count("\n") == 1


def test_a_lock_file_that_cannot_be_opened_is_an_error(tmp_path: Path) -> None:
    (tmp_path / ".lock").mkdir()
    with pytest.raises(UserError, match="cannot be locked"):
        lock(tmp_path)
