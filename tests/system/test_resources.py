"""Errors that a limit of the machine causes are explained in one line."""

from __future__ import annotations

import errno
import os
import subprocess
import sys

import pytest
import torch

from p3d.cli import COMMANDS, main
from p3d.system.resources import explain_limit, raise_file_limit, wait_briefly


@pytest.mark.parametrize(
    ("error", "start", "remedy"),
    [
        (OSError(errno.EMFILE, "Too many open files"), "too many open files", "ulimit -n"),
        (RuntimeError("received 0 items of ancdata"), "too many open files", "--workers"),
        (
            RuntimeError(
                "unable to open shared memory object </torch_1>: Too many open files (24)"
            ),
            "too many open files",
            "ulimit -n",
        ),
        (
            RuntimeError("unable to write to file </torch_5_1>: No space left on device (28)"),
            "the shared memory",
            "--shm-size",
        ),
        (
            RuntimeError("unable to allocate shared memory(shm) for file </torch_5>: Success (0)"),
            "the shared memory",
            "--ipc=host",
        ),
        (MemoryError(), "out of memory;", "--batch-size"),
        (
            RuntimeError("DefaultCPUAllocator: can't allocate memory: you tried to allocate 80"),
            "out of memory;",
            "--batch-size",
        ),
        (torch.OutOfMemoryError("CUDA out of memory."), "out of memory;", "--num-frames"),
        (OSError(errno.ENOMEM, "Cannot allocate memory"), "out of memory;", "--batch-size"),
        (OSError(errno.ENOSPC, "No space left on device", "a.csv"), "a.csv: no space left", "free"),
        (OSError(errno.ENOSPC, "No space left on device"), "no space left", "--shm-size"),
    ],
)
def test_limits_are_explained(
    error: OSError | RuntimeError | MemoryError,
    start: str,
    remedy: str,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    from p3d.weights import info

    def fail(_: object) -> None:
        raise error

    assert COMMANDS["info"].module == info.__name__
    monkeypatch.setattr(info, "run", fail)
    assert main(["info", "p3d63"]) == 2
    message = capsys.readouterr().err
    assert message.startswith(f"p3d: error: {start}")
    assert remedy in message
    assert message.count("\n") == 1


def test_other_errors_are_not_explained() -> None:
    assert explain_limit(RuntimeError("size mismatch")) is None
    assert explain_limit(OSError(errno.EIO, os.strerror(errno.EIO))) is None


def test_the_limit_of_open_files_is_raised() -> None:
    script = """
import resource
from p3d.system.resources import raise_file_limit
resource.setrlimit(resource.RLIMIT_NOFILE, (100, 200))
for limit in (150, 120, 999):
    raise_file_limit(limit)
    print(resource.getrlimit(resource.RLIMIT_NOFILE))
"""
    pytest.importorskip("resource")
    command = [sys.executable, "-c", script]
    output = subprocess.run(command, capture_output=True, text=True, check=True).stdout
    assert output.split("\n")[:3] == ["(150, 200)", "(150, 200)", "(200, 200)"]


def test_too_low_a_limit_of_open_files_is_refused() -> None:
    script = """
import resource
from p3d.errors import UserError
from p3d.system.resources import raise_file_limit
resource.setrlimit(resource.RLIMIT_NOFILE, (32, 32))
try:
    raise_file_limit()
except UserError as error:
    print(error)
"""
    pytest.importorskip("resource")
    command = [sys.executable, "-c", script]
    output = subprocess.run(command, capture_output=True, text=True, check=True).stdout
    assert output == (
        "at most 32 files can be open, and training needs 64 or more; raise the limit "
        "(ulimit -n 65536)\n"
    )


def test_the_limit_of_open_files_is_raised_as_far_as_macos_lets_it(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Its hard limit is "unlimited", but it refuses more than OPEN_MAX."""
    resource = pytest.importorskip("resource")
    asked = []

    def set_like_macos(_: int, limits: tuple[int, int]) -> None:
        asked.append(limits[0])
        if limits[0] > 10240:
            raise ValueError("current limit exceeds maximum limit")

    monkeypatch.setattr(resource, "getrlimit", lambda _: (256, resource.RLIM_INFINITY))
    monkeypatch.setattr(resource, "setrlimit", set_like_macos)
    raise_file_limit()
    assert asked == [65536, 10240]


@pytest.mark.parametrize(
    ("before", "after"),
    [
        ({}, "10000"),
        ({"GOMP_SPINCOUNT": "5"}, "5"),
        ({"OMP_WAIT_POLICY": "passive"}, None),
    ],
)
def test_threads_wait_briefly_unless_the_user_says_how(
    before: dict[str, str], after: str | None, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(os, "environ", before)
    wait_briefly()
    assert before.get("GOMP_SPINCOUNT") == after


def test_the_command_sets_it_before_pytorch_reads_it() -> None:
    script = (
        "import os, sys; from p3d.cli import main; main(['--version']); "
        "print('torch' in sys.modules, os.environ['GOMP_SPINCOUNT'])"
    )
    own = ("GOMP_SPINCOUNT", "OMP_WAIT_POLICY")
    environment = {name: value for name, value in os.environ.items() if name not in own}
    command = [sys.executable, "-c", script]
    result = subprocess.run(command, capture_output=True, text=True, check=True, env=environment)
    assert result.stdout.splitlines()[-1] == "False 10000"
