"""A training run that ends at a certain step. Run as `ended_run.py HOW STEP FLAGS...`.

FLAGS are the arguments of `p3d`. HOW is one of these:

* SIGKILL, SIGINT or SIGTERM: the process of the last rank gets this signal after the step; with
  several ranks, torchrun gets SIGTERM in its place;
* saving: the process is killed when half of the step's checkpoint is on the disk;
* fold-02: the process of this fold kills the `p3d folds` that started it, after the step.
"""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any, BinaryIO

import torch

from p3d.cli import main
from p3d.training import loop

SCRIPT = (sys.executable, __file__)


def start(how: str, step: int, *flags: str) -> subprocess.Popen[str]:
    """Start a run without torchrun."""
    return subprocess.Popen(
        [*SCRIPT, how, str(step), *flags],
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        env=os.environ | {"OMP_NUM_THREADS": "1"},
    )


def end_after(number: signal.Signals, step: int) -> None:
    """Send a signal before the step after this one, and wait until it has arrived."""
    train_step = loop.train_step

    def end_and_train(state: Any, batches: Any) -> Any:
        if state.progress.step == step:
            stop = signal.getsignal(signal.SIGTERM).__self__
            if state.group.rank == state.group.world_size - 1:
                launched = number == signal.SIGTERM and state.group.world_size > 1
                os.kill(os.getppid() if launched else os.getpid(), number)
            while number == signal.SIGTERM and not stop.is_set:
                time.sleep(0.01)
        return train_step(state, batches)

    loop.train_step = end_and_train


def kill_parent_after(step: int, folder: Path) -> None:
    """Kill the parent before the step after this one, if the folder exists, and wait."""
    train_step = loop.train_step

    def kill_and_train(state: Any, batches: Any) -> Any:
        if state.progress.step == step and folder.exists():
            os.kill(os.getppid(), signal.SIGKILL)
            time.sleep(600)  # it is to end with its parent
        return train_step(state, batches)

    loop.train_step = kill_and_train


def end_while_saving(step: int) -> None:
    """Kill the process when half of the checkpoint of a step is on the disk."""
    save = torch.save

    def save_or_die(contents: Any, file: BinaryIO, **how: Any) -> None:  # PyTorch calls it too
        save(contents, file, **how)
        if isinstance(contents, dict) and contents.get("progress", {}).get("step") == step:
            file.truncate(file.tell() // 2)
            os.kill(os.getpid(), signal.SIGKILL)

    torch.save = save_or_die


if __name__ in ("__main__", "__mp_main__"):
    how, step, flags = sys.argv[1], int(sys.argv[2]), sys.argv[3:]
    if how == "saving":
        end_while_saving(step)
    elif how == "fold-02":
        kill_parent_after(step, Path(flags[flags.index("--out") + 1], how))
    else:
        end_after(signal.Signals[how], step)
if __name__ == "__main__":
    sys.exit(main(flags))
