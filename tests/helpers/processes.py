"""Run commands in other processes, also several under torchrun."""

from __future__ import annotations

import os
import subprocess
import sys
from contextlib import suppress
from pathlib import Path

LAUNCHER = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc_per_node"]


def launch(
    num_processes: int, *command: object, env: dict[str, str] | None = None, module: bool = True
) -> subprocess.Popen[str]:
    """Start `p3d`, or a script, under torchrun; `finish` returns its output."""
    program = ["-m", "p3d"] if module else []
    return subprocess.Popen(
        [*LAUNCHER, str(num_processes), *program, *map(str, command)],
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        # With more threads than cores, spinning threads starve the other process.
        env=os.environ | {"OMP_NUM_THREADS": "1"} | (env or {}),
        start_new_session=True,
    )


def finish(process: subprocess.Popen[str], code: int = 0, timeout: float = 900) -> str:
    """Wait for a command, check its exit code, and return its output."""
    output = process.communicate(timeout=timeout)[0]
    assert process.returncode == code, output
    return output


def children(process: int) -> list[int]:
    """Return the processes that a process started (Linux)."""
    with suppress(FileNotFoundError):
        return [*map(int, Path(f"/proc/{process}/task/{process}/children").read_text().split())]
    return []


def archive_workers(process: int) -> list[int]:
    """Return the workers of a command that works through an archive (Linux)."""
    return [worker for server in children(process) for worker in children(server)]


def train_flags(data: Path, out: Path, **changes: object) -> list[str]:
    """Return the arguments of a tiny training run; `changes` are options by name."""
    flags: dict[str, object] = {
        "recipe": "scratch",
        "data": data,
        "out": out,
        "device": "cpu",
        "workers": 0,
        "epochs": 2,
        "batch_size": 8,
        "clips_per_video": 1,
        "num_frames": 4,
        "resize": "20 20",
        "crop": 16,
        "flip_probability": 0,
        "fps": "native",
    }
    arguments = ["train"]
    for name, value in (flags | changes).items():
        arguments.append(f"--{name.replace('_', '-')}")
        if value is not True:
            arguments += str(value).split() if name == "resize" else [str(value)]
    return arguments
