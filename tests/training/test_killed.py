"""Runs that are killed at any moment end with the very weights of one that is not."""

from __future__ import annotations

import os
import resource
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file

from helpers.processes import finish, launch, train_flags
from helpers.runs import assert_equal_weights, newest, options
from p3d.errors import UserError
from p3d.run_folder import BEST, find_checkpoints, read_log
from p3d.system.files import lock_folder
from p3d.training.checkpoint import CheckpointState, Saver, check_room
from p3d.training.log import RunLog
from p3d.training.progress import Progress
from p3d.training.train import run


def flags(sample: Path, out: Path, **changes: object) -> list[str]:
    """A run of four steps of eight clips that is saved after each."""
    return train_flags(sample, out, save_steps=1, resume=True, **changes)


def alone(*command: str) -> subprocess.Popen[str]:
    return subprocess.Popen(
        [sys.executable, "-m", "p3d", *command],
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        env=os.environ | {"OMP_NUM_THREADS": "1"},
        start_new_session=True,
    )


@pytest.fixture(scope="module")
def whole(sample: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder of a run that nobody disturbed."""
    out = tmp_path_factory.mktemp("killed") / "whole"
    output = finish(alone(*flags(sample, out)))
    assert "a checkpoint takes 200 MB, 2 are kept" in output
    assert [path.name for path in find_checkpoints(out)] == [
        "checkpoint-0000004.pt",
        "checkpoint-0000003.pt",
    ]
    return out


def kill_when(process: subprocess.Popen[str], condition: Callable[[], bool]) -> None:
    """Kill a command, its children and all, as soon as a condition holds; it may end before."""
    deadline = time.monotonic() + 120
    while process.poll() is None and not condition():
        assert time.monotonic() < deadline
        time.sleep(0.001)
    for number in [process.pid, *descendants(process.pid)]:
        with suppress(ProcessLookupError):
            os.kill(number, signal.SIGKILL)
    process.communicate()


def descendants(process: int) -> list[int]:
    """A process's children, their children, and so on."""
    tasks = Path(f"/proc/{process}/task").glob("*/children")
    children = [int(number) for task in tasks for number in task.read_text().split()]
    return children + [number for child in children for number in descendants(child)]


def is_writing(out: Path, step: int) -> bool:
    """Whether a part of this step's checkpoint lies on the disk."""
    try:
        return (out / f".checkpoint-{step:07d}.pt.tmp").stat().st_size > 1_000_000
    except FileNotFoundError:
        return False


def has_step(out: Path, step: int) -> bool:
    return any(line["event"] == "step" and line["step"] >= step for line in read_log(out))


def test_killed_in_mid_epoch_and_in_the_writing(whole: Path, sample: Path, tmp_path: Path) -> None:
    kill_when(alone(*flags(sample, tmp_path)), lambda: has_step(tmp_path, 1))
    kill_when(alone(*flags(sample, tmp_path)), lambda: is_writing(tmp_path, 2))
    assert (tmp_path / ".checkpoint-0000002.pt.tmp").exists(), "killed while it was written"
    assert all(path.name != "checkpoint-0000002.pt" for path in find_checkpoints(tmp_path))
    kill_when(alone(*flags(sample, tmp_path)), lambda: has_step(tmp_path, 3))
    finish(alone(*flags(sample, tmp_path)))
    assert_equal_weights(tmp_path, whole)
    steps = [line["step"] for line in read_log(tmp_path) if line["event"] == "step"]
    assert steps == [1, 2, 3, 4]
    assert not list(tmp_path.glob(".*.tmp"))


def test_a_killed_pair_goes_on_to_the_same_bits(sample: Path, tmp_path: Path) -> None:
    pair, killed = tmp_path / "pair", tmp_path / "killed"
    finish(launch(2, *flags(sample, pair, batch_size=4)))
    kill_when(launch(2, *flags(sample, killed, batch_size=4)), lambda: is_writing(killed, 2))
    output = finish(launch(2, *flags(sample, killed, batch_size=4)))
    assert "resuming in epoch 1 after step 1" in output
    assert_equal_weights(killed, pair)


def test_a_full_disk_costs_a_message_not_the_run(whole: Path, sample: Path, tmp_path: Path) -> None:
    """The disk takes files of up to 150 MB: the best network fits, a checkpoint does not."""
    small = 150_000_000
    process = subprocess.Popen(
        [sys.executable, "-m", "p3d", *flags(sample, tmp_path)],
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        env=os.environ | {"OMP_NUM_THREADS": "1"},
        preexec_fn=lambda: resource.setrlimit(resource.RLIMIT_FSIZE, (small, small)),
    )
    output = finish(process, code=1)
    assert output.count("NOT SAVED: ") == 4
    assert "the checkpoint could not be written" in output
    assert "Traceback" not in output
    assert find_checkpoints(tmp_path) == []
    log = read_log(tmp_path)
    assert [line["step"] for line in log if line["event"] == "step"] == [1, 2, 3, 4]
    assert [line["step"] for line in log if line["event"] == "save-failed"]
    kept, expected = (load_file(folder / BEST) for folder in (tmp_path, whole))
    assert all(torch.equal(kept[name], expected[name]) for name in expected)


def checkpoint_of(step: int) -> CheckpointState:
    return CheckpointState({}, {}, {}, {}, {}, 1, Progress(step=step), {})


def test_a_failed_save_leaves_the_checkpoints_before_it(tmp_path: Path, capsys) -> None:
    with RunLog(tmp_path, 0) as log:
        saver = Saver(tmp_path, log, minutes=10, steps=3, keep=1)
        saver.save(checkpoint_of(3))
        (tmp_path / "checkpoint-0000006.pt").mkdir()  # nothing can be written there
        (tmp_path / "checkpoint-0000006.pt" / "in the way").touch()
        saver.save(checkpoint_of(6))
        assert saver.failed
        assert "NOT SAVED: " in capsys.readouterr().err
        assert (tmp_path / "checkpoint-0000003.pt").exists()
        saver.save(checkpoint_of(9))
        assert not saver.failed
    assert newest(tmp_path).progress.step == 9
    assert [step for step in range(1, 8) if saver.is_due(step)] == [3, 6]


def test_a_run_has_one_writer(sample: Path, tmp_path: Path) -> None:
    words = "another process is using this folder; wait for it to end"
    with lock_folder(tmp_path), pytest.raises(UserError, match=words):
        run(options(sample, tmp_path))
    with lock_folder(tmp_path):
        pass


def test_there_must_be_room_for_a_checkpoint(tmp_path: Path) -> None:
    words = check_room(tmp_path, 1_000_000, 2_000_000, 2)
    assert words.startswith("a checkpoint takes 2 MB, 2 are kept; with the best network the run")
    with pytest.raises(UserError, match="free space or choose another --out"):
        check_room(tmp_path, 10**18, 10**18, 1)
