"""Jobs in processes of their own: devices, failures, and stops."""

from __future__ import annotations

import os
import signal
import sys
import time
from collections.abc import Callable
from functools import partial
from pathlib import Path

import pytest

from p3d.errors import UserError
from p3d.system.children import Job, run_on_devices
from p3d.system.distributed import Launch, read_launch
from p3d.system.signals import StopRequest


def work(folder: Path, name: str, others: int) -> int:
    """Print and record the device, and wait until as many jobs have started."""
    launch = read_launch()
    print("hello from", name)
    print("and its stderr", file=sys.stderr)
    (folder / f"{name}.device").write_text(str(launch.local_rank))
    assert launch == Launch(0, 1, launch.local_rank, launched=True)
    while len(list(folder.glob("*.device"))) < others:
        time.sleep(0.01)
    return 0


def fail() -> int:
    raise UserError("a value is wrong; give another")


def die() -> int:
    os.kill(os.getpid(), signal.SIGKILL)
    return 0


def stop_when_told(folder: Path) -> int:
    with StopRequest() as stop:
        (folder / "ready").touch()
        while not stop.is_set:
            time.sleep(0.01)
    (folder / "stopped").touch()
    return stop.exit_code


def run(jobs: list[Job], indices: list[int], stop: StopRequest | None = None) -> list[str]:
    started: list[Job] = []
    with stop or StopRequest() as request:
        done = [job.name for job in run_on_devices(jobs, indices, request, started.append)]
    assert [job.name for job in started] == [job.name for job in jobs][: len(started)]
    return done


def job(folder: Path, name: str, function: Callable[[], int]) -> Job:
    return Job(name, function, folder / f"{name}.log")


def test_each_device_has_a_job_at_a_time(tmp_path: Path) -> None:
    names = ("a", "b", "c")
    jobs = [job(tmp_path, name, partial(work, tmp_path, name, 2)) for name in names]
    assert sorted(run(jobs, [0, 3])) == [*names]
    assert (tmp_path / "a.log").read_text() == "hello from a\nand its stderr\n"
    devices = {name: (tmp_path / f"{name}.device").read_text() for name in names}
    assert (devices["a"], devices["b"]) == ("0", "3")
    assert devices["c"] in "03"


@pytest.mark.parametrize(
    ("function", "message"),
    [
        (fail, "bad: a value is wrong; give another (its output is in "),
        (die, "bad: its process ended with SIGKILL, see the end of "),
        (partial(int, "7"), "bad: its process ended with exit code 7, see the end of "),
    ],
)
def test_a_failure_ends_the_others(
    tmp_path: Path, function: Callable[[], int], message: str
) -> None:
    waiting = job(tmp_path, "waiting", partial(stop_when_told, tmp_path))
    never = job(tmp_path, "never", fail)
    with pytest.raises(UserError) as error:
        run([waiting, job(tmp_path, "bad", function), never], [0, 0])
    assert str(error.value).startswith(message)
    assert (tmp_path / "stopped").exists() == (tmp_path / "ready").exists()
    assert not never.log.exists()


class StopsLater(StopRequest):
    """A stop that is requested once a file exists."""

    file: Path

    @property
    def is_set(self) -> bool:
        return self.file.exists()


def test_a_stop_reaches_the_jobs(tmp_path: Path) -> None:
    stop = StopsLater()
    stop.file = tmp_path / "ready"
    assert run([job(tmp_path, "one", partial(stop_when_told, tmp_path))], [0], stop) == []
    assert (tmp_path / "stopped").exists()
