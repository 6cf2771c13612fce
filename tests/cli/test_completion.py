"""Completion scripts, run by the shells themselves."""

from __future__ import annotations

import os
import pty
import select
import shutil
import subprocess
import time
from pathlib import Path

import pytest

from p3d.cli.completion import Shell, completion

CASES = [
    ("p3d tr", "train"),
    ("p3d prepare ", "sample ucf101 manifest check frames flow"),
    ("p3d prepare ch", "check"),
    ("p3d train --sch", "--schedule"),
    ("p3d train --schedule co", "cosine constant"),
    ("p3d bench train --resume --precision bf", "bf16"),
    ("p3d completion ", "bash zsh fish"),
    ("p3d help tr", "train"),
    ("p3d help prepare ch", "check"),
    ("p3d train --data ./clip", "clip.avi"),
    ("p3d predict ./clip", "clip.avi"),
]
"""A command line, and what its last word is completed to."""


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return a folder with the scripts of all shells and a video."""
    folder = tmp_path_factory.mktemp("completion")
    shells: tuple[Shell, ...] = ("bash", "zsh", "fish")
    for shell in shells:
        (folder / shell).write_text(completion(shell))
    (folder / "clip.avi").touch()
    return folder


def need(shell: str) -> None:
    if shutil.which(shell) is None:
        pytest.skip(f"{shell} is not installed")


def run(shell: str, script: str, folder: Path) -> str:
    done = subprocess.run(
        [shell, "-c", script], cwd=folder, capture_output=True, text=True, check=True
    )
    assert done.stderr == ""
    return done.stdout


@pytest.mark.parametrize(("line", "words"), [*CASES, ("p3d train --schedule = co", CASES[4][1])])
def test_bash_completes(line: str, words: str, folder: Path) -> None:
    """Call the function as bash does; without words, bash completes files."""
    need("bash")
    script = f"""
        source ./bash
        COMP_WORDS=({line}{" ''" if line.endswith(" ") else ""})
        COMP_CWORD=$((${{#COMP_WORDS[@]}} - 1))
        _p3d
        echo "${{COMPREPLY[*]}}"
        complete -p p3d"""
    found, how = run("bash", script, folder).splitlines()
    assert found == ("" if words == "clip.avi" else words)
    assert "-o default" in how


@pytest.mark.parametrize(("line", "words"), [*CASES, ("p3d train --schedule=cos", "cosine")])
def test_fish_completes(line: str, words: str, folder: Path) -> None:
    need("fish")
    found = run("fish", f"source ./fish; complete -C '{line}'", folder)
    names = [word.split("\t")[0] for word in found.splitlines()]
    assert {name.removeprefix("./").removeprefix("--schedule=") for name in names} == {
        *words.split()
    }


def test_zsh_completes(folder: Path) -> None:
    """Press TAB in an interactive shell, whose p3d prints its arguments."""
    need("zsh")
    terminal, theirs = pty.openpty()
    shell = subprocess.Popen(
        ["zsh", "-f", "-i"], cwd=folder, stdin=theirs, stdout=theirs, stderr=theirs
    )
    os.close(theirs)
    try:
        type_and_wait(terminal, "p3d() { echo got: $*; }; source ./zsh; echo rea''dy\n", "ready")
        for line, words in [
            ("p3d trai\t--sche\tcos\t\n", "train --schedule cosine"),
            ("p3d train --schedule=cos\t\n", "train --schedule=cosine"),
            ("p3d prepare che\t./cli\t\n", "prepare check ./clip.avi"),
        ]:
            type_and_wait(terminal, line, f"got: {words}")
    finally:
        shell.kill()
        shell.wait()
        os.close(terminal)


def type_and_wait(terminal: int, keys: str, answer: str) -> None:
    os.write(terminal, keys.encode())
    text, end = "", time.monotonic() + 60
    while answer not in text:
        assert time.monotonic() < end, text
        if select.select([terminal], [], [], 1)[0]:
            text += os.read(terminal, 65536).decode(errors="replace")


def test_the_bash_script_is_clean(folder: Path) -> None:
    need("shellcheck")
    subprocess.run(["shellcheck", "--shell=bash", str(folder / "bash")], check=True)
