"""Killed runs resume to identical weights; failed writes do not end a run."""

from __future__ import annotations

import errno
import io
import os
import re
import shutil
import signal
import socket
import subprocess
import sys
from contextlib import redirect_stdout
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file

from helpers import ended_run
from helpers.disk import no_file_above
from helpers.processes import finish, launch, train_flags
from helpers.runs import (
    TINY,
    are_identical,
    copy_set,
    log_lines,
    logged_steps,
    newest,
    options,
    start,
    wait_for_step,
    weights,
)
from p3d.cli import main
from p3d.errors import UserError
from p3d.report.record import read_run
from p3d.run_folder import BEST_FILE, LAST_FILE, VALIDATION_FILE, find_checkpoints
from p3d.scores.accuracy import Accuracy
from p3d.system.folders import lock_folder
from p3d.training import kept_networks, resume, step, validation
from p3d.training.checkpoint import CheckpointState
from p3d.training.log import RunLog
from p3d.training.progress import Progress
from p3d.training.saver import Saver, check_room
from p3d.training.train import run

pytestmark = pytest.mark.usefixtures("narrow_networks")


def flags(sample: Path, out: Path, **changes: object) -> list[str]:
    """Return the arguments of a run of four steps of eight clips, saved after each step."""
    return train_flags(sample, out, save_steps=1, resume=True, **changes)


@pytest.fixture(scope="module")
def whole(sample: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return the folder of an uninterrupted run."""
    out = tmp_path_factory.mktemp("killed") / "whole"
    with redirect_stdout(io.StringIO()) as output:
        assert main(flags(sample, out)) == 0
    size = find_checkpoints(out)[0].stat().st_size / 1e6
    assert f"a checkpoint takes {size:.0f} MB, 2 are kept" in output.getvalue()
    assert [path.name for path in find_checkpoints(out)] == [
        "checkpoint-0000004.pt",
        "checkpoint-0000003.pt",
    ]
    return out


def descendants(process: int) -> list[int]:
    """Return the process IDs of a process's children, their children, and so on."""
    tasks = Path(f"/proc/{process}/task").glob("*/children")
    children = [int(number) for task in tasks for number in task.read_text().split()]
    return children + [number for child in children for number in descendants(child)]


def check_killed_while_saving(out: Path) -> None:
    """Check that the checkpoint of step 2 was not finished."""
    assert (out / ".checkpoint-0000002.pt.tmp").stat().st_size > 0
    assert [path.name for path in find_checkpoints(out)] == ["checkpoint-0000001.pt"]


def test_run_killed_in_an_epoch_and_while_saving_resumes_to_identical_weights(
    whole: Path, sample: Path, tmp_path: Path
) -> None:
    words = flags(sample, tmp_path)
    finish(ended_run.start("saving", 2, *words), code=-signal.SIGKILL)
    check_killed_while_saving(tmp_path)
    finish(ended_run.start("SIGKILL", 3, *words), code=-signal.SIGKILL)
    assert main(words) == 0
    assert are_identical(weights(tmp_path), weights(whole))
    assert logged_steps(tmp_path) == [1, 2, 3, 4]
    assert not list(tmp_path.glob(".*.tmp"))


def test_killed_ranks_resume_to_identical_weights(sample: Path, tmp_path: Path) -> None:
    pair, killed = tmp_path / "pair", tmp_path / "killed"
    finish(launch(2, *flags(sample, pair, batch_size=4)))
    words = flags(sample, killed, batch_size=4)
    finish(launch(2, ended_run.__file__, "saving", 2, *words, module=False), code=1)
    check_killed_while_saving(killed)
    output = finish(launch(2, *words))
    assert "resuming in epoch 1 after step 1" in output
    assert are_identical(weights(killed), weights(pair))


def test_rank_that_loses_the_other_saves_and_ends_in_one_line(
    sample: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """Without torchrun's agent, which would send SIGTERM to the rank that is left."""
    flags = train_flags(sample, tmp_path, batch_size=2, epochs=1)
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        port = listener.getsockname()[1]
    common = {"WORLD_SIZE": "2", "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(port)}
    ranks = [
        subprocess.Popen(
            [*ended_run.SCRIPT, "SIGKILL", "2", *flags],
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            env=os.environ
            | common
            | {"RANK": str(rank), "LOCAL_RANK": str(rank), "OMP_NUM_THREADS": "1"},
        )
        for rank in (0, 1)
    ]
    finish(ranks[1], code=-signal.SIGKILL)
    output = finish(ranks[0], code=2)
    errors = [line for line in output.splitlines() if "error" in line]
    assert errors == [
        "p3d: error: process 0 stops because another process of this run ended; see the message "
        "above, or the other process's output, for the reason"
    ]
    assert "Traceback" not in output
    assert newest(tmp_path).progress.step == logged_steps(tmp_path)[-1] == 2
    recipe = replace(TINY, batch_size=2, epochs=1)
    assert run(options(sample, tmp_path, recipe, resume=True)) == 0
    assert "resuming in epoch 1 after step 2" in capsys.readouterr().out
    assert logged_steps(tmp_path) == [1, 2, 3, 4]


def test_full_disk_does_not_end_a_run(
    whole: Path, sample: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """Files may have enough bytes for the best network, not for a checkpoint."""
    with no_file_above((whole / BEST_FILE).stat().st_size * 3 // 2):
        assert main(flags(sample, tmp_path)) == 1
    output = capsys.readouterr().err
    assert output.count("NOT SAVED: ") == 4
    assert "the checkpoint could not be written (File too large)" in output
    assert find_checkpoints(tmp_path) == []
    assert logged_steps(tmp_path) == [1, 2, 3, 4]
    assert log_lines(tmp_path, "save-failed")
    for name in (BEST_FILE, LAST_FILE):
        assert are_identical(load_file(tmp_path / name), load_file(whole / name))


def test_best_network_is_kept_if_its_scores_cannot_be_written(
    sample: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / VALIDATION_FILE / "in the way").mkdir(parents=True)
    assert run(options(sample, tmp_path, replace(TINY, epochs=1))) == 0
    output = capsys.readouterr()
    assert output.err.count("NOT SAVED: ") == 1
    assert "validation.csv: cannot be written" in output.err
    assert "best (epoch 1)" in output.out
    assert newest(tmp_path).progress.best_epoch == 1
    assert are_identical(load_file(tmp_path / BEST_FILE), weights(tmp_path))


def test_summary_names_the_network_that_was_kept(
    sample: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    """The best network cannot be written in the last epoch, nor the scores of the first."""
    epochs = iter([(True, 0.25), (True, 0.5), (False, 1.0)])

    def measure_as(*_: object) -> Accuracy:
        may_write, top1 = next(epochs)
        if not may_write:
            (tmp_path / BEST_FILE).rename(tmp_path / "kept")
            (tmp_path / BEST_FILE).mkdir()
        return Accuracy(8, top1, 1.0, top1, 0.1, torch.zeros(8, 8))

    def fail(*_: object) -> None:
        raise UserError("validation.csv: cannot be written")

    monkeypatch.setattr(validation, "measure", measure_as)
    monkeypatch.setattr(kept_networks, "write_scores", fail)
    (tmp_path / VALIDATION_FILE).write_text("scores of an earlier network")
    assert run(options(sample, tmp_path, replace(TINY, epochs=3))) == 0
    assert not (tmp_path / VALIDATION_FILE).exists()
    assert [line["best_epoch"] for line in log_lines(tmp_path, "epoch")] == [1, 2, 2]
    progress = newest(tmp_path).progress
    assert (progress.best_epoch, progress.best_top1) == (2, 0.5)
    output = capsys.readouterr().out
    assert "best (epoch 2)" in output
    assert "last (epoch 3)" in output
    best = read_run(tmp_path).best
    assert best is not None
    assert best["epoch"] == 2


def test_lost_worker_process_saves_and_ends_the_run(sample: Path, tmp_path: Path) -> None:
    process = start(*train_flags(sample, tmp_path, workers=1, epochs=2000))
    wait_for_step(process, tmp_path, 2)
    for worker in descendants(process.pid):
        os.kill(worker, signal.SIGKILL)
    output = finish(process, code=2)
    assert re.search(r"p3d: error: .*worker process that read it died", output)
    assert "Traceback" not in output
    progress = newest(tmp_path).progress
    assert progress.step == logged_steps(tmp_path)[-1] >= 2


def test_validation_without_a_readable_video_saves_and_ends_the_run(
    whole: Path, sample: Path, tmp_path: Path
) -> None:
    data, out = tmp_path / "set", tmp_path / "run"
    copy_set(sample, data)
    names = (data / "ucfTrainTestlist" / "validationlist01.txt").read_text().split()
    videos = [next(data.rglob(Path(name).name)) for name in names if name.endswith(".avi")]
    contents = [video.read_bytes() for video in videos]
    for video in videos:
        video.unlink()
        video.write_bytes(b"damaged")
    with pytest.raises(UserError, match="none of the 8 videos could be read"):
        run(options(data, out))
    assert newest(out).progress.step == logged_steps(out)[-1] == 2
    for video, content in zip(videos, contents, strict=True):
        video.write_bytes(content)
    assert run(options(data, out, resume=True)) == 0
    assert logged_steps(out) == [1, 2, 3, 4]
    assert are_identical(weights(out), weights(whole))


def test_failed_step_is_not_saved(
    sample: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail(*_: object) -> None:
        raise UserError("the loss is nan")

    monkeypatch.setattr(step, "_check_finite", fail)
    with pytest.raises(UserError, match="the loss is nan"):
        run(options(sample, tmp_path))
    assert find_checkpoints(tmp_path) == []


def test_folder_is_locked_before_a_checkpoint_is_read(
    sample: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(resume, "read_newest", lambda *_: pytest.fail("read without the lock"))
    with lock_folder(tmp_path), pytest.raises(UserError, match="another process is using"):
        run(options(sample, tmp_path, resume=True))


def test_old_checkpoint_that_cannot_be_deleted_gets_one_warning(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    unlink = Path.unlink

    def refuse(path: Path, *, missing_ok: bool = False) -> None:
        if path.name == "checkpoint-0000001.pt":
            raise PermissionError(errno.EPERM, os.strerror(errno.EPERM))
        unlink(path, missing_ok=missing_ok)

    monkeypatch.setattr(Path, "unlink", refuse)
    with RunLog(tmp_path, 0) as log:
        saver = Saver(tmp_path, log, minutes=10, steps=1, keep=1)
        for number in (1, 2, 3, 4):
            saver.save(checkpoint_of(number))
        assert not saver.failed
    warning = capsys.readouterr().err
    assert warning.count("\n") == 1
    assert "0000001.pt: the old checkpoint cannot be deleted (Operation not permitted)" in warning
    assert [path.name for path in find_checkpoints(tmp_path)] == [
        "checkpoint-0000004.pt",
        "checkpoint-0000001.pt",
    ]


def test_small_shared_memory_is_reported_with_the_remedy(sample: Path, tmp_path: Path) -> None:
    small = [
        "unshare",
        "-m",
        "sh",
        "-c",
        "mount -t tmpfs -o size=1m none /dev/shm && exec $0 $@",
    ]
    if shutil.which("unshare") is None or subprocess.run([*small, "true"], check=False).returncode:
        pytest.skip("this process cannot mount a small /dev/shm")
    flags = train_flags(sample, tmp_path, workers=1, num_frames=16, resize="96 96", crop=96)
    output = subprocess.run(
        [*small, sys.executable, "-m", "p3d", *flags], capture_output=True, text=True, check=False
    )
    assert output.returncode == 2, output.stderr
    last = output.stderr.strip().splitlines()[-1]
    assert last.startswith("p3d: error: the shared memory of the worker processes (/dev/shm) is")


def checkpoint_of(step: int) -> CheckpointState:
    return CheckpointState({}, {}, {}, {}, {}, 1, Progress(step=step), {}, average={})


def test_failed_save_keeps_earlier_checkpoints(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    with RunLog(tmp_path, 0) as log:
        saver = Saver(tmp_path, log, minutes=10, steps=3, keep=1)
        saver.save(checkpoint_of(3))
        (tmp_path / "checkpoint-0000006.pt").mkdir()  # cannot be overwritten by a file
        (tmp_path / "checkpoint-0000006.pt" / "in the way").touch()
        saver.save(checkpoint_of(6))
        assert saver.failed
        assert "NOT SAVED: " in capsys.readouterr().err
        assert (tmp_path / "checkpoint-0000003.pt").exists()
        saver.save(checkpoint_of(9))
        assert not saver.failed
    assert newest(tmp_path).progress.step == 9
    assert [step for step in range(1, 8) if saver.is_due(step)] == [3, 6]


def test_second_process_cannot_train_in_the_same_folder(sample: Path, tmp_path: Path) -> None:
    message = "another process is using this folder; wait for it to end"
    with lock_folder(tmp_path), pytest.raises(UserError, match=message):
        run(options(sample, tmp_path))
    with lock_folder(tmp_path):
        pass


def test_disk_without_room_for_a_checkpoint_is_rejected(tmp_path: Path) -> None:
    message = check_room(tmp_path, 1_000_000, 2_000_000, 2)
    assert message.startswith("a checkpoint takes 2 MB, 2 are kept; the run up to 9 MB")
    with pytest.raises(UserError, match="free space or choose another --out"):
        check_room(tmp_path, 10**18, 10**18, 1)
