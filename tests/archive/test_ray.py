"""Work on a Ray cluster of several nodes on this machine."""

from __future__ import annotations

import os
import socket
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import suppress
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch

import p3d
from helpers.archive_work import Doubling, Opening, Refusing
from helpers.videos import write_video
from p3d.archive.engine import Summary, run_items
from p3d.archive.machines import Machine, open_machine
from p3d.archive.parts import part_files, read_part
from p3d.archive.ray_head import Head
from p3d.archive.results import ATTEMPTS_FILE, PARTS, Results
from p3d.archive.work import Work
from p3d.cli import main
from p3d.errors import UserError
from p3d.model.network import create_model
from p3d.preprocessing import IMAGENET
from p3d.system.signals import StopRequest
from p3d.weights.metadata import save_model

ray = pytest.importorskip("ray", reason="needs the extra ray")
_STORE = 80 * 2**20


@pytest.fixture(scope="module")
def cluster(narrow_networks: None) -> Iterator[Any]:  # noqa: ARG001
    """Start a cluster of two nodes; the first, where the tests are, has no place for workers."""
    from ray.cluster_utils import Cluster

    paths = [str(Path(__file__).parents[1]), str(Path(p3d.__file__).parents[1])]
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("PYTHONPATH", os.pathsep.join([*paths, os.environ.get("PYTHONPATH", "")]))
        patch.setenv("RAY_USAGE_STATS_ENABLED", "0")
        patch.setenv("RAY_worker_niceness", "0")  # workers wait for ever on a busy machine
        head = {"num_cpus": 0, "include_dashboard": False, "object_store_memory": _STORE}
        cluster = patiently(lambda: Cluster(initialize_head=True, head_node_args=head))
        cluster.nodes = [add_node(cluster)]
        yield cluster
        cluster.shutdown()


def patiently(start: Callable[[], Any]) -> Any:
    """Call again what Ray gives up on a busy machine after 30 seconds."""
    for _ in range(2):
        with suppress(Exception):
            return start()
    return start()


def add_node(cluster: Any) -> Any:
    return patiently(lambda: cluster.add_node(num_cpus=1, object_store_memory=_STORE))


@pytest.fixture
def machine(cluster: Any) -> Iterator[Machine]:
    with open_machine(cluster.address, None, "auto", 1) as machine:
        yield machine


def run(machine: Machine, work: Work, items: dict[str, str], out: Path) -> tuple[Summary, Results]:
    (out / PARTS).mkdir()
    results = Results(out, {})
    with machine.pool(work, len(items)) as pool:
        return run_items(items, pool, results, StopRequest(), "working"), results


def numbers(count: int, *others: str) -> dict[str, str]:
    return {name: name for name in (*map(str, range(count)), *others)}


def rows_of(out: Path) -> list[tuple[str, float]]:
    rows = [row for file in part_files(out / PARTS) for row in read_part(file).rows]
    return sorted((row["path"], row["double"][0]) for row in rows)


def doubles(count: int) -> list[tuple[str, float]]:
    return sorted((str(n), 2.0 * n) for n in range(count))


def test_item_that_kills_its_actor_is_tried_three_times(machine: Machine, tmp_path: Path) -> None:
    assert (machine.device, machine.threads) == ("cpu", 1)
    summary, results = run(machine, Doubling(), numbers(30, "bad", "poison"), tmp_path)
    assert (summary.done, summary.bad) == (30, 2)
    assert results.bad["bad"] == "is no number"
    assert results.bad["poison"].startswith("its worker died 3 times (died on ")
    assert rows_of(tmp_path) == doubles(30)


def test_lost_node_and_new_node(
    cluster: Any, machine: Machine, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    found: list[tuple[Summary, Results]] = []
    arguments = (machine, Doubling(threads=1, seconds=0.1), numbers(40), tmp_path)
    thread = threading.Thread(target=lambda: found.append(run(*arguments)))
    thread.start()
    log = tmp_path / ATTEMPTS_FILE
    while not log.exists() or log.read_text().count('"end"') < 5:
        time.sleep(0.05)
    cluster.remove_node(cluster.nodes.pop(), allow_graceful=False)  # the only one with workers
    cluster.nodes.append(add_node(cluster))
    thread.join()
    ((summary, results),) = found
    assert (summary.done, results.bad) == (40, {})
    assert rows_of(tmp_path) == doubles(40)
    notes = [line for line in capsys.readouterr().err.splitlines() if "was lost" in line]
    assert len(notes) == 1, notes
    assert notes[0].endswith("was lost; its videos are done again elsewhere")


@pytest.mark.parametrize(
    ("work", "message"),
    [
        (Refusing(), r"^node \S+: no such weights$"),
        (Refusing(crash=True), r"^node \S+: a worker died at its start"),
    ],
)
def test_workers_that_cannot_start_end_the_run(
    work: Refusing, message: str, machine: Machine, tmp_path: Path
) -> None:
    with pytest.raises(UserError, match=message):
        run(machine, work, numbers(3), tmp_path)


def test_file_that_a_node_does_not_have_ends_the_run(
    machine: Machine, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)  # which is not the folder of the actors
    Path("a").write_bytes(b"abc")
    out = tmp_path / "out"
    out.mkdir()
    with pytest.raises(UserError, match=r"^node \S+: a is not there .*every node"):
        run(machine, Opening(), {"a": "a"}, out)


@pytest.fixture(scope="module")
def root(narrow_networks: None, tmp_path_factory: pytest.TempPathFactory) -> Path:  # noqa: ARG001
    """Return a folder with three videos, one that cannot be read, and weights."""
    root = tmp_path_factory.mktemp("root")
    torch.manual_seed(0)
    model = create_model("p3d63", num_classes=3)
    model.preprocessing = replace(IMAGENET, num_frames=4, resize=(18, 24), crop=16, fps=25.0)
    save_model(model, root / "net.safetensors")
    (root / "set" / "run").mkdir(parents=True)
    for number in range(3):
        write_video(root / "set" / "run" / f"{number}.avi", 6 + 3 * number)
    (root / "set" / "run" / "bad.avi").write_bytes(b"no video")
    return root


def flags_of(root: Path, *more: str) -> list[str]:
    weights = root / "net.safetensors"
    return ["--weights", str(weights), "--threads", "1", "--device", "cpu", *more]


def test_score_gives_the_same_rows_as_without_ray(cluster: Any, root: Path, tmp_path: Path) -> None:
    flags = flags_of(root, "--what", "scores", "--clips", "2", "--format", "jsonl")
    found = []
    for more in ([], ["--ray", cluster.address]):
        out = tmp_path / f"out{len(found)}"
        assert main(["score", str(root / "set"), "--out", str(out), *flags, *more]) == 2
        found.append([read_part(file) for file in part_files(out / PARTS)])
        assert "bad.avi,not a video" in (out / "bad.csv").read_text()
    alone, with_ray = found  # a slow run has more parts
    assert all(part.settings == alone[0].settings for part in with_ray)
    rows, expected = (
        sorted((row for p in parts for row in p.rows), key=str) for parts in (with_ray, alone)
    )
    assert rows == expected


def test_features_and_timelines_are_those_without_ray(
    cluster: Any, root: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(root)  # which is not the folder of the actors
    flags = flags_of(Path(), "--clips", "2", "--on-bad-video", "skip", "--data", "set")
    cut = flags_of(Path(), "--high", "0.35", "--low", "0.3", "--smooth", "0", "--shortest", "0")
    for name, more in (("alone", []), ("ray", ["--ray", cluster.address])):
        assert main(["features", *flags, "--out", str(tmp_path / f"{name}.npz"), *more]) == 0
        assert main(["timeline", "set", *cut, "--out", str(tmp_path / name), *more]) == 2
    assert (tmp_path / "alone.npz").read_bytes() == (tmp_path / "ray.npz").read_bytes()
    alone, ray = (
        {f.name: f.read_text() for f in (tmp_path / name).rglob("*.avi.json")}
        for name in ("alone", "ray")
    )
    assert len(alone) == 3
    assert ray == alone


@pytest.mark.parametrize("address", ["127.0.0.1:1", "nonsense", "127.0.0.1:port"])
def test_no_cluster_is_one_line(address: str) -> None:
    with (
        pytest.raises(UserError, match=rf"^--ray {address}: no Ray answers .*ray start --head"),
        open_machine(address, None, "auto", None),
    ):
        pass


def test_auto_without_a_cluster_is_one_line(monkeypatch: pytest.MonkeyPatch) -> None:
    from ray._private import services

    def nothing_runs(*_: object) -> None:  # as Ray says it; other tests may run a cluster
        raise ConnectionError("Could not find any running Ray instance.")

    monkeypatch.delenv("RAY_ADDRESS", raising=False)
    monkeypatch.setattr(services, "canonicalize_bootstrap_address", nothing_runs)
    with (
        pytest.raises(
            UserError, match=r"^--ray auto: no Ray answers \(no Ray runs on this machine"
        ),
        open_machine("auto", None, "auto", None),
    ):
        pass


def test_head_that_is_gone_is_one_line(monkeypatch: pytest.MonkeyPatch) -> None:
    clock = iter((0.0, 4.0, 33.0, 36.0))  # it looks at most every 3 s, and waits for 30 s
    monkeypatch.setattr("p3d.archive.ray_head.time", SimpleNamespace(monotonic=clock.__next__))
    with socket.create_server(("127.0.0.1", 0)) as server:
        head = Head(f"127.0.0.1:{server.getsockname()[1]}")
        head.check()
    head.check()  # it may be restarted
    with pytest.raises(UserError, match=rf"^the head of the Ray cluster, {head.address}, does not"):
        head.check()


def test_frames_are_prepared_on_the_cluster(
    cluster: Any, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "data" / "run").mkdir(parents=True)
    for number in range(3):
        write_video(tmp_path / "data" / "run" / f"{number}.avi", 4)
    (tmp_path / "data" / "run" / "bad.avi").write_bytes(b"no video")
    words = ["prepare", "frames", "--data", str(tmp_path / "data"), "--out", str(tmp_path / "out")]
    assert main([*words, "--ray", cluster.address]) == 1
    assert "12 frames of 3 videos (0 kept, 1 broken)" in capsys.readouterr().out
    assert main(words) == 1
    assert "12 frames of 3 videos (3 kept, 1 broken)" in capsys.readouterr().out
