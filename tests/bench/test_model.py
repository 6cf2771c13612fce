"""`p3d bench model` times the same network in both forms, in turns."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch

from helpers.tiny_networks import make_networks_narrow
from p3d.bench import model
from p3d.bench.backends import matrix_rate
from p3d.bench.model import ModelBenchOptions, _inference, bench_model, run
from p3d.bench.turns import Candidate, time_in_turns
from p3d.errors import UserError

TINY = ModelBenchOptions(
    precisions=("fp32",), frames=4, size=16, training_batch_size=2, rounds=1, device="cpu"
)


@pytest.fixture
def quick(monkeypatch: pytest.MonkeyPatch) -> None:
    """Time narrow networks beside small products."""
    make_networks_narrow(monkeypatch)
    monkeypatch.setattr(model, "SIDE", 64)
    monkeypatch.setattr(model, "SMALL_SIDE", 32)


def test_candidates_compute_the_same_logits() -> None:
    torch.manual_seed(0)
    plain, ours = (candidate.call() for candidate in _inference(TINY, torch.device("cpu")))
    assert isinstance(plain, torch.Tensor)
    torch.testing.assert_close(ours, plain, rtol=1e-3, atol=1e-3)


def test_candidates_take_turns_of_two_calls() -> None:
    calls: list[str] = []
    candidates = [
        Candidate(name, "fp32", lambda name=name: calls.append(name))
        for name in ("first", "second")
    ]
    times = time_in_turns(candidates, 2, torch.device("cpu"))
    assert calls == ["first", "first", "second", "second"] * 2
    assert times.keys() == {("first", "fp32"), ("second", "fp32")}
    assert all(0 < found.best <= found.median for found in times.values())


@pytest.mark.usefixtures("quick")
def test_times_inference_and_training() -> None:
    timings = bench_model(TINY).timings
    assert [(timing.task, timing.name) for timing in timings] == [
        ("inference", "plain"),
        ("inference", "p3d"),
        ("training", "plain"),
        ("training", "p3d"),
        ("training", "p3d, all BN frozen but the first"),
        ("training", "p3d, all BN frozen"),
    ]
    assert all(0 < t.best_seconds_per_clip <= t.seconds_per_clip for t in timings)


@pytest.mark.usefixtures("quick")
def test_times_the_compiled_network_too(monkeypatch: pytest.MonkeyPatch) -> None:
    compile_eagerly = torch.compile
    monkeypatch.setattr(torch, "compile", lambda net: compile_eagerly(net, backend="eager"))
    torch._dynamo.reset()
    timings = bench_model(ModelBenchOptions(**{**vars(TINY), "compile": True})).timings
    assert [timing.name for timing in timings] == [
        *("plain", "p3d", "p3d compiled"),
        *("plain", "p3d", "p3d, all BN frozen but the first", "p3d, all BN frozen"),
        *("p3d compiled", "p3d compiled, all BN frozen but the first"),
        "p3d compiled, all BN frozen",
    ]


@pytest.mark.usefixtures("quick")
def test_writes_its_figures(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    out = tmp_path / "model.json"
    run(ModelBenchOptions(**{**vars(TINY), "training": False, "out": out}))
    figures = json.loads(out.read_text())
    assert len(figures["timings"]) == 2
    assert figures["options"]["size"] == 16
    assert "inference fp32 p3d" in capsys.readouterr().out


def test_refuses_no_rounds() -> None:
    with pytest.raises(UserError, match="--rounds"):
        bench_model(ModelBenchOptions(rounds=0))
    with pytest.raises(UserError, match="--several-clips is -1"):
        bench_model(ModelBenchOptions(several_clips=-1))


@pytest.mark.usefixtures("quick")
def test_backends_are_timed_beside_the_matrix_rate(
    capsys: pytest.CaptureFixture[str],
) -> None:
    run(
        ModelBenchOptions(
            **{
                **vars(TINY),
                "size": 32,
                "precisions": ("fp32", "bf16"),
                "training": False,
                "backends": ("eager", "onnx"),
            }
        )
    )
    printed = capsys.readouterr().out
    assert "best of matrix rate" in printed
    assert "fp32 eager scorer: compiled or exported in 0.0 s" in printed
    assert "fp32 eager scorer, 20 clips" in printed
    assert "fp32 onnx scorer, batches of 16: " in printed
    assert "bf16 onnx scorer: not timed: " in printed


@pytest.mark.usefixtures("quick")
def test_8_bit_files_are_timed_too(capsys: pytest.CaptureFixture[str]) -> None:
    several = {"precisions": ("bf16",), "backends": ("eager", "onnx"), "batch_size": 16}
    run(ModelBenchOptions(**{**vars(TINY), "size": 32, "training": False, "int8": True, **several}))
    printed = capsys.readouterr().out
    assert "int8 eager scorer: not timed: 8-bit networks are files; give" in printed
    row = next(line for line in printed.splitlines() if "int8 onnx scorer, 20" in line)
    assert row.endswith("-")  # no matrix rate in int8


def test_matrix_rate_is_that_of_a_product() -> None:
    assert 1e6 < matrix_rate(torch.device("cpu"), "fp32", side=64) < 1e15
