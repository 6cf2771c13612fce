"""Worker processes take every video once, and those that kill them are given up."""

from __future__ import annotations

import os
import signal
import time
from collections.abc import Iterator
from contextlib import nullcontext
from functools import partial
from pathlib import Path

import pytest

from p3d.archive.parts import Record
from p3d.archive.pool import MAX_TRIES, Pool, Work
from p3d.errors import UserError


def open_work(log: Path, ahead: int = 2) -> Work:
    """Return work that takes some videos in advance, and dies of those named "kill"."""
    return partial(_work, log, ahead)


def _work(log: Path, ahead: int, paths: Iterator[str]) -> Iterator[Record]:
    taken: list[str] = []
    for path in paths:
        with log.open("a") as file:
            file.write(f"{path}\n")
        taken.append(path)
        if len(taken) > ahead:
            yield _finish(taken.pop(0))
    yield from map(_finish, taken)


def _finish(path: str) -> Record:
    if path.startswith("kill"):
        os.kill(os.getpid(), signal.SIGKILL)
    return {"path": path, "error": None, "worker": os.getpid()}


def refuse() -> Work:
    raise UserError("no such weights")


def crash() -> Work:
    os._exit(3)


def names(count: int) -> list[str]:
    return [f"{number:03d}" for number in range(count)]


@pytest.mark.parametrize("processes", [1, 3])
@pytest.mark.parametrize("count", [0, 1, 2, 50])
def test_each_video_once(processes: int, count: int, tmp_path: Path) -> None:
    pool = Pool(partial(open_work, tmp_path / "log"), [nullcontext] * processes)
    found = [record["path"] for record in pool.results(names(count))]
    assert sorted(found) == names(count)
    if count:
        assert sorted((tmp_path / "log").read_text().split()) == names(count)


def test_work_is_shared(tmp_path: Path) -> None:
    pool = Pool(partial(open_work, tmp_path / "log"), [nullcontext] * 2)
    found = list(pool.results(names(2000)))
    assert len({record["worker"] for record in found}) == 2


def test_only_the_video_that_kills_is_given_up(tmp_path: Path) -> None:
    videos = [*names(9), "kill-a", *names(20)[9:], "kill-b", "kill-c"]
    pool = Pool(partial(open_work, tmp_path / "log"))
    found = {record["path"]: record["error"] for record in pool.results(videos)}
    assert found.keys() == set(videos)
    bad = {path: error for path, error in found.items() if error}
    assert bad.keys() == {"kill-a", "kill-b", "kill-c"}
    assert bad["kill-a"] == (
        f"the process that read it died (killed by SIGKILL); it was tried alone {MAX_TRIES} times"
    )
    log = (tmp_path / "log").read_text().split()
    assert log.count("kill-a") == 1 + MAX_TRIES
    assert max(map(log.count, names(20))) <= 2 + MAX_TRIES


def test_a_stop_leaves_the_rest(tmp_path: Path) -> None:
    pool = Pool(partial(open_work, tmp_path / "log"))
    found: list[Record] = []
    for record in pool.results(names(10_000), lambda: len(found) >= 5):
        found.append(record)
    assert 5 <= len(found) < 10_000


@pytest.mark.parametrize(
    ("work", "message"),
    [(refuse, "no such weights"), (crash, r"died before it took a video \(exit code 3\)")],
)
def test_work_that_cannot_start(work: partial[Work], message: str) -> None:
    with pytest.raises(UserError, match=message):
        list(Pool(work).results(["a"]))


def test_workers_end_with_their_parent(tmp_path: Path) -> None:
    reader, writer = os.pipe()
    child = os.fork()
    if not child:
        found = Pool(partial(open_work, tmp_path / "log")).results(iter(lambda: "again", None))
        os.write(writer, str(next(found)["worker"]).encode())
        signal.pause()
    worker = int(os.read(reader, 20))
    os.kill(child, signal.SIGKILL)
    os.waitpid(child, 0)
    deadline = time.monotonic() + 60
    while time.monotonic() < deadline:
        try:
            os.kill(worker, 0)
        except ProcessLookupError:
            return
        time.sleep(0.01)
    pytest.fail("the worker is still there")
