"""`p3d bench model` times the same network in both forms, in turns."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch

from p3d.bench.model import (
    Candidate,
    ModelBenchOptions,
    _inference,
    bench_model,
    run,
    time_in_turns,
)
from p3d.errors import UserError

TINY = ModelBenchOptions(
    precisions=("fp32",), frames=4, size=16, training_batch_size=2, rounds=1, device="cpu"
)


def test_candidates_compute_the_same_logits() -> None:
    torch.manual_seed(0)
    plain, ours = (candidate.call() for candidate in _inference(TINY, torch.device("cpu")))
    assert isinstance(plain, torch.Tensor)
    torch.testing.assert_close(ours, plain, rtol=1e-3, atol=1e-3)


def test_candidates_take_turns_after_a_warm_up() -> None:
    calls: list[str] = []
    candidates = [
        Candidate(name, "fp32", lambda name=name: calls.append(name))
        for name in ("first", "second")
    ]
    medians = time_in_turns(candidates, 2, torch.device("cpu"))
    assert calls == ["first", "second"] * 3
    assert medians.keys() == {("first", "fp32"), ("second", "fp32")}


def test_times_inference_and_training() -> None:
    timings = bench_model(TINY)
    assert [(timing.task, timing.name) for timing in timings] == [
        ("inference", "plain"),
        ("inference", "p3d"),
        ("training", "plain"),
        ("training", "p3d"),
    ]
    assert all(timing.seconds_per_clip > 0 for timing in timings)


def test_times_the_compiled_network_too(monkeypatch: pytest.MonkeyPatch) -> None:
    compile_eagerly = torch.compile
    monkeypatch.setattr(torch, "compile", lambda net: compile_eagerly(net, backend="eager"))
    torch._dynamo.reset()
    timings = bench_model(ModelBenchOptions(**{**vars(TINY), "compile": True}))
    assert [timing.name for timing in timings] == ["plain", "p3d", "p3d compiled"] * 2


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
