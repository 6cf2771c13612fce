"""SIGTERM cleans up as Ctrl-C does, except where others handle it."""

from __future__ import annotations

import signal
import subprocess
import sys
from pathlib import Path

import pytest

_COMMAND = """
import os, signal, sys, time, tempfile
from p3d import cli

def work(arguments):
    with tempfile.TemporaryDirectory(dir=sys.argv[1]):
        reader, writer = os.pipe()
        if sys.argv[2] == "forked" and (child := os.fork()):
            os.read(reader, 1)  # a signal before Python has set up the child would be lost
            os.kill(child, signal.SIGTERM)
            print(os.WTERMSIG(os.waitpid(child, 0)[1]))
            return 0
        os.write(writer, b"x")
        if sys.argv[2] != "forked":  # whose output could be cut off by the signal
            print("ready", flush=True)
        time.sleep(600)

cli._run = work
sys.exit(cli.main([]))
"""


def run(folder: Path, *, kind: str = "", send: bool = True) -> tuple[int, str]:
    """Return the exit code and the output of a command that gets SIGTERM."""
    process = subprocess.Popen(
        [sys.executable, "-c", _COMMAND, folder, kind],
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
    )
    assert process.stdout
    first = process.stdout.readline() if send else ""
    if send:
        process.send_signal(signal.SIGTERM)
    output = process.communicate(timeout=600)[0]
    return process.returncode, first + output


@pytest.mark.skipif(sys.platform == "win32", reason="Windows has no SIGTERM")
def test_sigterm_leaves_nothing(tmp_path: Path) -> None:
    assert run(tmp_path) == (128 + signal.SIGTERM, "ready\np3d: interrupted\n")
    assert not [*tmp_path.iterdir()]


@pytest.mark.skipif(sys.platform == "win32", reason="Windows cannot fork")
def test_a_forked_child_ends_at_once(tmp_path: Path) -> None:
    code, output = run(tmp_path, kind="forked", send=False)
    assert (code, output) == (0, f"{int(signal.SIGTERM)}\n")


@pytest.mark.skipif(sys.platform == "win32", reason="Windows has no SIGTERM")
def test_processes_of_torchrun_end_at_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("RANK", "0")
    assert run(tmp_path) == (-signal.SIGTERM, "ready\n")
