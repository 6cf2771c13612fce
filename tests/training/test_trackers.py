"""Trackers, as modules with the parts of the packages' interfaces that p3d uses."""

from __future__ import annotations

import json
import subprocess
import sys
from dataclasses import dataclass, replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from helpers.runs import TINY, log_lines, options
from p3d.cli import main
from p3d.errors import UserError
from p3d.training import trackers
from p3d.training.log import RunLog
from p3d.training.trackers import IDS_FILE, TrackerName
from p3d.training.train import run

pytestmark = pytest.mark.usefixtures("narrow_networks")

NAMES: tuple[TrackerName, ...] = ("wandb", "mlflow", "trackio")


class Service:
    """What the fake packages received: configurations, numbers by run, and ends."""

    def __init__(self) -> None:
        self.configs: dict[str, dict[str, Any]] = {}
        self.numbers: dict[str, list[tuple[int, str, float]]] = {}
        self.ends: list[tuple[str, object]] = []
        self.down = False

    def check(self) -> None:
        if self.down:
            raise ConnectionError("the network is down\nand more about it")

    def receive(self, run_id: str, metrics: dict[str, float], step: int | None) -> None:
        assert step is not None
        self.check()
        self.numbers.setdefault(run_id, [])
        self.numbers[run_id] += [(step, name, value) for name, value in metrics.items()]


class Run:
    """The run that `init` of wandb and trackio returns."""

    def __init__(self, service: Service, run_id: str) -> None:
        self.service, self.run_id = service, run_id

    def log(self, data: dict[str, Any], step: int | None = None) -> None:
        self.service.receive(self.run_id, data, step)

    def finish(self, exit_code: int | None = None) -> None:
        self.service.check()
        self.service.ends.append((self.run_id, exit_code))


@dataclass(frozen=True)
class Metric:
    key: str
    value: float
    timestamp: int
    step: int


@dataclass(frozen=True)
class Param:
    key: str
    value: str


def fake_wandb(service: Service) -> SimpleNamespace:
    def init(
        *,
        project: str | None = None,
        dir: str | None = None,
        id: str | None = None,
        name: str | None = None,
        config: dict[str, Any] | None = None,
        resume: str | None = None,
    ) -> Run:
        service.check()
        assert (project, resume) == ("p3d", "allow")
        assert id is not None
        assert Path(str(dir)).name == name
        if config is not None:
            service.configs[id] = config
        return Run(service, id)

    return SimpleNamespace(init=init)


def fake_trackio(service: Service) -> SimpleNamespace:
    current: list[Run] = []

    def init(
        project: str,
        name: str | None = None,
        *,
        config: dict[str, Any] | None = None,
        resume: str = "never",
    ) -> Run:
        service.check()
        assert (project, resume) == ("p3d", "allow")
        assert name is not None
        if config is not None:
            service.configs[name] = config
        current.append(Run(service, name))
        return current[-1]

    return SimpleNamespace(init=init, finish=lambda: current[-1].finish())


def fake_mlflow(service: Service) -> SimpleNamespace:
    class MlflowClient:
        def create_run(self, experiment_id: str, run_name: str | None = None) -> Any:
            service.check()
            assert experiment_id == "7"
            return SimpleNamespace(info=SimpleNamespace(run_id=f"id of {run_name}"))

        def update_run(self, run_id: str, status: str | None = None) -> None:
            assert (run_id in service.numbers, status) == (True, "RUNNING")

        def log_batch(self, run_id: str, metrics: Any = (), params: Any = ()) -> None:
            if params:
                service.configs[run_id] = {item.key: item.value for item in params}
            for item in metrics:
                service.receive(run_id, {item.key: item.value}, item.step)

        def set_terminated(self, run_id: str, status: str | None = None) -> None:
            service.ends.append((run_id, status))

    return SimpleNamespace(
        MlflowClient=MlflowClient,
        entities=SimpleNamespace(Metric=Metric, Param=Param),
        set_experiment=lambda name: SimpleNamespace(name=name, experiment_id="7"),
    )


FAKES = {"wandb": fake_wandb, "mlflow": fake_mlflow, "trackio": fake_trackio}


@pytest.fixture
def services(monkeypatch: pytest.MonkeyPatch) -> dict[str, Service]:
    """Put the fake packages in the place of the real ones."""
    services = {name: Service() for name in NAMES}
    for variable in ("WANDB_PROJECT", "MLFLOW_EXPERIMENT_NAME"):
        monkeypatch.delenv(variable, raising=False)
    for name, fake in FAKES.items():
        module = fake(services[name])
        module.__spec__ = SimpleNamespace(origin=f"/site-packages/{name}/__init__.py")
        monkeypatch.setitem(sys.modules, name, module)
    return services


@pytest.mark.parametrize("name", NAMES)
def test_resumed_run_continues_on_the_tracker(
    name: TrackerName, services: dict[str, Service], tmp_path: Path
) -> None:
    service = services[name]
    for start in (0, 2):
        with RunLog(tmp_path, start, trackers=[name], config={"lr": 0.5}) as log:
            log.write("step", start + 1, loss=1.5, note="no number")
            log.write("step", start + 2, loss=0.5)
    ((run_id, received),) = service.numbers.items()
    assert json.loads((tmp_path / IDS_FILE).read_text()) == {name: run_id}
    assert {name for _, name, _ in received} == {"step/loss"}
    assert [(step, loss) for step, _, loss in received] == [(1, 1.5), (2, 0.5), (3, 1.5), (4, 0.5)]
    assert service.configs == {run_id: {"lr": "0.5" if name == "mlflow" else 0.5}}
    end = {"wandb": 0, "mlflow": "FINISHED", "trackio": None}[name]
    assert service.ends == [(run_id, end)] * 2
    with RunLog(tmp_path, 0, trackers=[name]) as log:
        log.write("step", 1, loss=1.0)
    assert name == "mlflow" or len(service.numbers) == 2  # a new run on the tracker


@pytest.mark.parametrize("name", NAMES)
def test_error_ends_the_run_on_the_tracker(
    name: TrackerName, services: dict[str, Service], tmp_path: Path
) -> None:
    with pytest.raises(UserError), RunLog(tmp_path, 0, trackers=[name]):
        raise UserError("the loss is nan")
    ((_, end),) = services[name].ends
    assert end == {"wandb": 1, "mlflow": "FAILED", "trackio": None}[name]


@pytest.mark.parametrize("name", NAMES)
def test_failing_tracker_gets_one_warning(
    name: TrackerName,
    services: dict[str, Service],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.setattr(trackers, "BATCH_SECONDS", -1)
    service = services[name]
    warning = f"p3d: warning: --track {name}: the network is down; training continues without it\n"
    with RunLog(tmp_path, 0, trackers=[name]) as log:
        service.down = True
        for step in (1, 2, 3):
            log.write("step", step, loss=1.0)
        assert capsys.readouterr().err == warning
        monkeypatch.setattr(trackers.time, "monotonic", lambda: 1e12)  # later
        service.down = False
        log.write("step", 4, loss=1.0)
    assert capsys.readouterr().err == ""
    assert [step for step, _, _ in next(iter(service.numbers.values()))] == [4]
    assert [line["step"] for line in log_lines(tmp_path, "step")] == [1, 2, 3, 4]


@pytest.mark.parametrize("name", NAMES)
def test_tracker_that_cannot_be_opened_gets_one_warning(
    name: TrackerName,
    services: dict[str, Service],
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
) -> None:
    services[name].down = True
    with RunLog(tmp_path, 0, trackers=[name]) as log:
        services[name].down = False
        log.write("step", 1, loss=1.0)
    assert capsys.readouterr().err.count("training continues without it\n") == 1
    assert services[name].numbers == {}
    assert not (tmp_path / IDS_FILE).exists()


def test_mlflow_gets_steps_in_batches(
    services: dict[str, Service], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(trackers, "BATCH_SIZE", 4)
    counts = []
    with RunLog(tmp_path, 0, trackers=["mlflow"]) as log:
        for step in range(1, 7):
            log.write("step", step, loss=1.0)
            counts.append(sum(map(len, services["mlflow"].numbers.values())))
    assert counts == [0, 0, 0, 4, 4, 4]
    assert sum(map(len, services["mlflow"].numbers.values())) == 6


def test_training_sends_its_log_and_options(
    services: dict[str, Service], sample: Path, tmp_path: Path
) -> None:
    recipe = replace(TINY, max_steps=1)
    assert run(options(sample, tmp_path, recipe, track=("wandb", "mlflow"))) == 0
    (config,) = services["wandb"].configs.values()
    assert (config["lr"], config["nesterov"], config["data"]) == (0.02, True, str(sample))
    for name in ("wandb", "mlflow"):
        (received,) = services[name].numbers.values()
        names = {name for _, name, _ in received}
        assert {"step/loss", "epoch/validation_top1", "checkpoint/bytes"} <= names


def test_all_files_are_written_before_a_tracker_is_closed(
    services: dict[str, Service],
    sample: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    """A package may wait for its server without end."""
    pytest.importorskip("matplotlib", reason="matplotlib is not installed")
    found, printed = set[str](), list[str]()

    def finish(_run: Run, exit_code: int | None = None) -> None:
        assert exit_code == 0
        found.update(path.name for path in tmp_path.iterdir())
        printed.append(capsys.readouterr().out)

    monkeypatch.setattr(Run, "finish", finish)
    assert run(options(sample, tmp_path, replace(TINY, max_steps=1), track=("wandb",))) == 0
    assert services["wandb"].numbers
    assert {"best.safetensors", "last.safetensors", "report.html"} <= found
    assert f"written to {tmp_path}" in printed[0]


def test_missing_package_is_named_before_anything_is_done(
    sample: Path,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    (tmp_path / "wandb").mkdir()  # what wandb leaves in a folder; Python can import it
    monkeypatch.syspath_prepend(tmp_path)
    monkeypatch.delitem(sys.modules, "wandb", raising=False)
    out = tmp_path / "run"
    flags = ["--recipe", "sample", "--data", str(sample), "--out", str(out), "--device", "cpu"]
    for plan in ((), ("--plan",)):
        assert main(["train", *flags, "--track", "wandb", *plan]) == 2
        error = capsys.readouterr().err
        assert error == "p3d: error: --track wandb needs the wandb package: pip install wandb\n"
    assert not out.exists()


def test_trackers_are_not_imported_without_need() -> None:
    code = "import sys, p3d.training.log; print({'wandb', 'mlflow', 'trackio'} & set(sys.modules))"
    output = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, check=True
    )
    assert output.stdout == "set()\n"


@pytest.mark.parametrize("text", ["", "[]", '{"wandb": 3}', "{"])
def test_damaged_identities_start_a_new_run(
    text: str, services: dict[str, Service], tmp_path: Path
) -> None:
    (tmp_path / IDS_FILE).write_text(text)
    with RunLog(tmp_path, 5, trackers=["wandb"]) as log:
        log.write("step", 6, loss=1.0)
    assert len(services["wandb"].numbers) == 1
