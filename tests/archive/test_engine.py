"""Parts, attempts, and items that kill their workers."""

from __future__ import annotations

import os
import shutil
import signal
import subprocess
import sys
import threading
import time
from pathlib import Path

import numpy as np
import pytest

from helpers.archive_work import Doubling, Refusing
from helpers.videos import write_video
from p3d.archive import work
from p3d.archive.attempts import MAX_DEATHS, MAX_STARTS, Attempts
from p3d.archive.engine import describe, run_items
from p3d.archive.machines import ThisMachine
from p3d.archive.parts import PartFormat, part_files, read_part, write_part
from p3d.archive.processes import ProcessPool
from p3d.archive.results import PARTS, Results
from p3d.archive.work import Event, Lost
from p3d.errors import UserError
from p3d.system.signals import StopRequest
from p3d.video.index_cache import IndexCache

ITEMS = {name: name for name in ("poison", "bad", *map(str, range(8)))}


@pytest.mark.parametrize("suffix", ["parquet", "jsonl"])
def test_parts_keep_every_bit(suffix: PartFormat, tmp_path: Path) -> None:
    if suffix == "parquet":
        pytest.importorskip("pyarrow")
    values = np.random.default_rng(0).normal(size=(3, 5)).astype(np.float32)
    rows = [
        {"path": f"/v/{name}.avi", "frames": n, "classes": ["a", name], "p": values[n]}
        for n, name in enumerate(("a b", "ü", "line\nbreak\u2028"))
    ]
    file = tmp_path / f"part-000001.{suffix}"
    write_part(file, {"clips": 2}, rows)
    part = read_part(file)
    assert part.settings == {"clips": 2}
    assert [row | {"p": None} for row in part.rows] == [row | {"p": None} for row in rows]
    assert np.array_equal(np.array([row["p"] for row in part.rows], np.float32), values)
    assert read_part(file, only_paths=True).rows == [{"path": row["path"]} for row in rows]
    assert [*tmp_path.iterdir()] == [file]
    file.write_bytes(file.read_bytes()[:-9])
    if suffix == "parquet":
        with pytest.raises(UserError, match="is no part that p3d can read"):
            read_part(file)


def test_attempts_survive_a_kill_and_a_torn_line(tmp_path: Path) -> None:
    file = tmp_path / "attempts.jsonl"
    log = Attempts(file)
    for video in ("done", "given up", "a\nb", "killer"):
        log.start(video)
    log.end("done")
    log.release("given up")
    log.died("killer")
    log.close()
    with file.open("ab") as opened:
        opened.write(b'["start", "tor')
    again = Attempts(file)
    again.compact()
    suspects = [v for v in ("done", "given up", "a\nb", "killer", "tor") if again.is_suspect(v)]
    assert suspects == ["a\nb", "killer"]
    for _ in range(MAX_DEATHS - 1):
        assert again.describe_last("killer") is None
        again.start("killer")
        again.died("killer")
    for _ in range(MAX_STARTS - 1):
        assert again.describe_last("a\nb") is None
        again.start("a\nb")
    again.close()
    last = Attempts(file)
    assert last.describe_last("killer") == f"its worker died {MAX_DEATHS} times"
    assert f"started {MAX_STARTS} times" in str(last.describe_last("a\nb"))


def test_item_that_kills_its_worker_is_tried_three_times(tmp_path: Path) -> None:
    (tmp_path / PARTS).mkdir()
    results = Results(tmp_path, {"by": 2}, part_videos=3)
    with StopRequest() as stop, ProcessPool(Doubling(), 1) as pool:
        summary = run_items(ITEMS, pool, results, stop, "doubling")
    assert (summary.done, summary.bad) == (8, 2)
    assert describe(summary, 1).startswith("8 videos done in ")
    assert results.bad["bad"] == "is no number"
    assert results.bad["poison"] == (
        "its worker died 3 times (killed by SIGKILL; was memory short?)"
    )
    rows = [row for file in part_files(tmp_path / PARTS) for row in read_part(file).rows]
    assert sorted((row["path"], row["double"][0]) for row in rows) == [
        (str(n), 2.0 * n) for n in range(8)
    ]
    again = Results(tmp_path, {"by": 2})
    assert (again.done, again.bad) == (results.done, results.bad)
    again.forget_bad()
    assert not again.bad
    with pytest.raises(UserError, match="was made with by 2, not 3"):
        Results(tmp_path, {"by": 3})


def test_folder_that_cannot_be_written_is_one_line(tmp_path: Path) -> None:
    folder = tmp_path / "out"
    (folder / PARTS).mkdir(parents=True)
    results = Results(folder, {})
    shutil.rmtree(folder)
    with pytest.raises(UserError, match=r"cannot be written .*same command goes on"):
        results.attempts.start("a")
    with pytest.raises(UserError, match="cannot be written"):
        write_part(folder / "part-000001.jsonl", {}, [{"path": "a"}])


class Leaving:
    """A pool whose worker's machine goes away with the first items, and whose second one works."""

    depth, size = 2, 1

    def __init__(self) -> None:
        self._sent: list[tuple[int, str]] = []

    def is_ready(self, worker: int) -> bool:
        return worker == self.size - 1

    def send(self, worker: int, video: str, source: str) -> None:  # noqa: ARG002
        self._sent.append((worker, video))

    def wait(self, seconds: float) -> list[Event]:  # noqa: ARG002
        sent, self._sent = self._sent, []
        if self.size == 1:
            self.size = 2
            return [Event(0, None, Lost())]
        return [Event(worker, video, {"by": worker}) for worker, video in sent]


def test_items_of_a_lost_machine_are_done_again_without_blame(tmp_path: Path) -> None:
    (tmp_path / PARTS).mkdir()
    results = Results(tmp_path, {})
    summary = run_items(ITEMS, Leaving(), results, StopRequest(), "doing")
    assert (summary.done, summary.bad) == (len(ITEMS), 0)
    rows = [row for file in part_files(tmp_path / PARTS) for row in read_part(file).rows]
    assert sorted((row["path"], row["by"]) for row in rows) == [(name, 1) for name in sorted(ITEMS)]
    assert not any(map(results.attempts.is_suspect, ITEMS))


def test_processes_on_a_cpu_share_its_cores(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("p3d.archive.machines.num_cores", lambda: 8)
    cases = [(None, None), (None, 3), (None, 9), (1, None), (3, None), (9, None), (3, 4)]
    found = [ThisMachine(processes, "cpu", threads) for processes, threads in cases]
    shares = [(machine.processes, machine.threads) for machine in found]
    assert shares == [(8, 1), (2, 3), (1, 9), (1, 8), (3, 2), (9, 1), (3, 4)]


def test_a_worker_keeps_the_indices_of_a_few_videos(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    cache = IndexCache()
    monkeypatch.setattr(work, "INDICES", cache)
    monkeypatch.setattr(work, "_INDEX_BYTES", 2500)
    work.start_worker(Doubling(), 0)
    for number in range(4):
        path = write_video(tmp_path / f"{number}.avi", 4)
        cache.get(path, path.stat())
    assert len(cache) == 2


def test_several_workers_do_each_item_once(tmp_path: Path) -> None:
    (tmp_path / PARTS).mkdir()
    results = Results(tmp_path, {}, part_videos=40)
    items = {str(number): str(number) for number in range(300)}
    with StopRequest() as stop, ProcessPool(Doubling(), 3) as pool:
        assert run_items(items, pool, results, stop, "doubling").done == 300
    rows = [row for file in part_files(tmp_path / PARTS) for row in read_part(file).rows]
    assert sorted(row["path"] for row in rows) == sorted(items)


def test_a_stop_keeps_what_is_done_and_blames_nothing(tmp_path: Path) -> None:
    (tmp_path / PARTS).mkdir()
    results = Results(tmp_path, {})
    items = {str(number): str(number) for number in range(100_000)}
    with StopRequest() as stop, ProcessPool(Doubling(), 1) as pool:
        threading.Thread(target=_stop_after, args=(results, 10)).start()
        done = run_items(items, pool, results, stop, "doubling").done
        assert stop.is_set
    again = Results(tmp_path, {})
    assert 10 <= len(again.done) == done < len(items)
    assert not again.bad
    assert not any(map(again.attempts.is_suspect, items))


@pytest.mark.parametrize(
    ("work", "message"),
    [
        (Refusing(), "no such weights"),
        (Refusing(crash=True), r"died at its start \(exit code 3\)"),
    ],
)
def test_workers_that_cannot_start_end_the_run(
    work: Refusing, message: str, tmp_path: Path
) -> None:
    (tmp_path / PARTS).mkdir()
    results = Results(tmp_path, {})
    with (
        StopRequest() as stop,
        ProcessPool(work, 1) as pool,
        pytest.raises(UserError, match=message),
    ):
        run_items(ITEMS, pool, results, stop, "doubling")
    assert not results.bad


def test_workers_end_with_their_parent() -> None:
    script = (
        "import time\n"
        "from helpers.archive_work import Doubling\n"
        "from p3d.archive.processes import ProcessPool\n"
        "if __name__ == '__main__':\n"
        "    with ProcessPool(Doubling(), 2) as pool:\n"
        "        while not all(pool.is_ready(n) for n in range(2)):\n"
        "            pool.wait(0.1)\n"
        "        import multiprocessing\n"
        "        print(*(p.pid for p in multiprocessing.active_children()), flush=True)\n"
        "        time.sleep(600)\n"
    )
    parent = subprocess.Popen(
        [sys.executable, "-c", script],
        stdout=subprocess.PIPE,
        text=True,
        env=os.environ | {"PYTHONPATH": str(Path(__file__).parents[1])},
    )
    assert parent.stdout is not None
    workers = [int(word) for word in parent.stdout.readline().split()]
    parent.stdout.close()
    assert len(workers) == 2
    parent.kill()
    parent.wait()
    deadline = time.monotonic() + 600
    while any(map(_is_alive, workers)):
        assert time.monotonic() < deadline
        time.sleep(0.05)


def _stop_after(results: Results, count: int) -> None:
    while len(results.done) < count:
        time.sleep(0.001)
    os.kill(os.getpid(), signal.SIGTERM)


def _is_alive(process: int) -> bool:
    try:
        os.kill(process, 0)
    except ProcessLookupError:
        return False
    return True
