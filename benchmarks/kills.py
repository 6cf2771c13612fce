"""Kill a training run at random moments, resume it, and compare its weights bit for bit.

    python benchmarks/kills.py --kills 20 --processes 1

Trains on 16 synthetic videos with tiny clips and a checkpoint after every step: once without
interruption, and once with SIGKILLs to all its processes, at random times after a step or while a
checkpoint is written.
"""

from __future__ import annotations

import argparse
import json
import os
import random
import signal
import subprocess
import sys
import tempfile
import time
from contextlib import suppress
from pathlib import Path

import torch

from p3d.prepare.sample import write_sample
from p3d.run_folder import find_checkpoints, read_log
from p3d.training.checkpoint_files import read_newest

FLAGS = (
    "train --recipe scratch --device cpu --workers 1 --clips-per-video 1 --num-frames 4 "
    "--resize 20 20 --crop 16 --flip-probability 0 --save-steps 1 --resume"
)


def start(data: Path, out: Path, epochs: int, processes: int) -> subprocess.Popen[bytes]:
    launcher = ["-m", "torch.distributed.run", "--standalone", "--nproc_per_node", str(processes)]
    return subprocess.Popen(
        [
            sys.executable,
            *(launcher if processes > 1 else []),
            *("-m", "p3d", *FLAGS.split(), "--epochs", str(epochs)),
            *("--batch-size", str(8 // processes), "--data", str(data), "--out", str(out)),
        ],
        stdout=subprocess.DEVNULL,
        stderr=subprocess.STDOUT,
        env=os.environ | {"OMP_NUM_THREADS": "1"},
    )


def descendants(process: int) -> list[int]:
    children = []
    for task in Path(f"/proc/{process}/task").glob("*/children"):
        with suppress(OSError):
            children += [int(number) for number in task.read_text().split()]
    return children + [number for child in children for number in descendants(child)]


def steps_done(out: Path) -> int:
    return max((line["step"] for line in read_log(out) if line["event"] == "step"), default=0)


def kill(process: subprocess.Popen[bytes], out: Path, rng: random.Random) -> str | None:
    """Kill a run; return what it was doing, or None if it had already ended."""
    first_step = steps_done(out)
    while_writing = rng.random() < 0.5
    delay = rng.uniform(0, 1.5)
    while process.poll() is None:
        has_step = steps_done(out) > first_step
        is_writing = any(path.stat().st_size > 1e6 for path in out.glob(".checkpoint-*.tmp"))
        if is_writing if while_writing else has_step:
            break
        time.sleep(0.001)
    if not while_writing:
        time.sleep(delay)
    if process.poll() is not None:
        return None
    for number in [process.pid, *descendants(process.pid)]:
        with suppress(ProcessLookupError):
            os.kill(number, signal.SIGKILL)
    process.wait()
    time.sleep(0.2)
    return "writing" if any(out.glob(".checkpoint-*.tmp")) else "training"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--kills", type=int, default=20)
    parser.add_argument("--epochs", type=int, default=6)
    parser.add_argument("--processes", type=int, default=1)
    parser.add_argument("--seed", type=int, default=0)
    options = parser.parse_args()
    rng = random.Random(options.seed)
    with tempfile.TemporaryDirectory() as folder:
        data, whole, killed = (Path(folder) / name for name in ("set", "whole", "killed"))
        write_sample(
            data, train_groups=2, validation_groups=1, test_groups=1, clips_per_group=1, workers=0
        )
        assert start(data, whole, options.epochs, options.processes).wait() == 0
        kills: list[str] = []
        while len(kills) < options.kills:
            process = start(data, killed, options.epochs, options.processes)
            activity = kill(process, killed, rng)
            if activity is None:
                break
            kills.append(activity)
            print(f"kill {len(kills)}: while {activity}, step {steps_done(killed)}", flush=True)
        assert start(data, killed, options.epochs, options.processes).wait() == 0
        print(json.dumps({"processes": options.processes} | compare(killed, whole, kills)))


def compare(killed: Path, whole: Path, kills: list[str]) -> dict[str, object]:
    ours, theirs = read_newest(killed)[0], read_newest(whole)[0]
    assert ours is not None
    assert theirs is not None
    tensors = ours["model"].items()
    return {
        "kills": len(kills),
        "while writing": kills.count("writing"),
        "steps": ours["progress"]["step"],
        "equal bit for bit": all(torch.equal(t, theirs["model"][name]) for name, t in tensors),
        "checkpoints": [path.name for path in find_checkpoints(killed)],
        "unfinished files": len(list(killed.glob(".checkpoint-*.tmp"))),
    }


if __name__ == "__main__":
    main()
