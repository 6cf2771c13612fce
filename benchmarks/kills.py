"""Kill a training run at random moments, let it go on, and compare its weights bit for bit.

    python benchmarks/kills.py --kills 20 --processes 1

Trains on 16 made-up videos with tiny clips, saving after every step, once undisturbed and once with
SIGKILLs to all its processes at random times after the first step or while a checkpoint is written.
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
from p3d.training.checkpoint import read_newest

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


def disturb(process: subprocess.Popen[bytes], out: Path, rng: random.Random) -> str | None:
    """Kill a run; returns in the midst of what, or None where it was over before."""
    begun = steps_done(out)
    in_writing = rng.random() < 0.5
    delay = rng.uniform(0, 1.5)
    while process.poll() is None:
        ready = steps_done(out) > begun
        halves = [path for path in out.glob(".checkpoint-*.tmp") if path.stat().st_size > 1e6]
        if halves if in_writing else ready:
            break
        time.sleep(0.001)
    if not in_writing:
        time.sleep(delay)
    if process.poll() is not None:
        return None
    for number in [process.pid, *descendants(process.pid)]:
        with suppress(ProcessLookupError):
            os.kill(number, signal.SIGKILL)
    process.wait()
    time.sleep(0.2)
    return "writing" if any(out.glob(".checkpoint-*.tmp")) else "a step"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--kills", type=int, default=20)
    parser.add_argument("--epochs", type=int, default=6)
    parser.add_argument("--processes", type=int, default=1)
    parser.add_argument("--seed", type=int, default=0)
    asked = parser.parse_args()
    rng = random.Random(asked.seed)
    with tempfile.TemporaryDirectory() as folder:
        data, whole, killed = (Path(folder) / name for name in ("set", "whole", "killed"))
        write_sample(
            data, train_groups=2, validation_groups=1, test_groups=1, clips_per_group=1, workers=0
        )
        assert start(data, whole, asked.epochs, asked.processes).wait() == 0
        midst: list[str] = []
        while len(midst) < asked.kills:
            process = start(data, killed, asked.epochs, asked.processes)
            found = disturb(process, killed, rng)
            if found is None:
                break
            midst.append(found)
            print(f"kill {len(midst)}: in {found}, at step {steps_done(killed)}", flush=True)
        assert start(data, killed, asked.epochs, asked.processes).wait() == 0
        print(json.dumps({"processes": asked.processes} | compare(killed, whole, midst)))


def compare(killed: Path, whole: Path, midst: list[str]) -> dict[str, object]:
    ours, theirs = read_newest(killed)[0], read_newest(whole)[0]
    assert ours is not None
    assert theirs is not None
    tensors = ours["model"].items()
    return {
        "kills": len(midst),
        "in writing": midst.count("writing"),
        "steps": ours["progress"]["step"],
        "equal bit for bit": all(torch.equal(t, theirs["model"][name]) for name, t in tensors),
        "checkpoints": [path.name for path in find_checkpoints(killed)],
        "halves left": len(list(killed.glob(".checkpoint-*.tmp"))),
    }


if __name__ == "__main__":
    main()
