"""A rank of a training run in which rank 1 kills itself before its third step.

Run as `lost_rank.py FLAGS...`, the arguments of `p3d`, with the variables that torchrun sets.
"""

from __future__ import annotations

import os
import signal
import sys
from typing import Any

from p3d.cli import main
from p3d.training import loop

train_step = loop.train_step


def train_or_die(state: Any, batches: Any) -> Any:
    if state.group.rank == 1 and state.progress.step == 2:
        os.kill(os.getpid(), signal.SIGKILL)
    return train_step(state, batches)


if __name__ == "__main__":
    loop.train_step = train_or_die
    sys.exit(main())
