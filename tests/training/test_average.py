"""Averaged weights: their values, what is saved, and that nothing else changes them."""

from __future__ import annotations

import copy
import signal
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file
from torch import nn
from torch.optim.swa_utils import AveragedModel, get_ema_avg_fn

from helpers import ended_run
from helpers.processes import finish, train_flags
from helpers.runs import (
    TINY,
    are_identical,
    log_lines,
    newest,
    options,
    tiny_run,
)
from p3d.run_folder import BEST_FILE, LAST_FILE, find_checkpoints
from p3d.training.average import WeightAverage
from p3d.training.checkpoint import CheckpointState
from p3d.training.resume import restorable_network
from p3d.training.step import train_step
from p3d.training.train import run
from p3d.weights.loading import load_model

pytestmark = pytest.mark.usefixtures("narrow_networks")

AVERAGED = replace(TINY, average_epochs=1.5)


def tiny_network() -> nn.Module:
    return nn.Sequential(nn.Conv2d(2, 3, 3), nn.BatchNorm2d(3), nn.Flatten(), nn.Linear(3, 2))


def trajectory(steps: int) -> list[nn.Module]:
    """Return a network in float64 after each of some steps, its batch statistics included."""
    torch.manual_seed(0)
    network, states = tiny_network().double(), []
    for _ in range(steps):
        with torch.no_grad():
            for parameter in network.parameters():
                parameter.add_(torch.randn_like(parameter))
        network(torch.randn(4, 2, 3, 3, dtype=torch.float64))
        states.append(copy.deepcopy(network))
    return states


def averaged(states: list[nn.Module], span: float) -> dict[str, torch.Tensor]:
    average = WeightAverage(tiny_network().double(), span)  # type: ignore[arg-type]
    for step, state in enumerate(states, start=1):
        average.update(state, step)  # type: ignore[arg-type]
    return average.network.state_dict()


@pytest.mark.parametrize("span", [0.5, 4.0, 300.0])
def test_average_is_the_moving_mean_of_torch_without_its_start(span: float) -> None:
    states = trajectory(12)
    decay = float(torch.tensor(-1 / span, dtype=torch.float64).exp())
    oracle = AveragedModel(states[0], avg_fn=get_ema_avg_fn(decay), use_buffers=True)
    with torch.no_grad():
        for tensor in oracle.module.state_dict().values():
            tensor.zero_()
    oracle.n_averaged.fill_(1)  # otherwise torch starts from a copy of the first network
    for state in states:
        oracle.update_parameters(state)
    found = averaged(states, span)
    for name, tensor in oracle.module.state_dict().items():
        if tensor.is_floating_point():
            torch.testing.assert_close(found[name], tensor / (1 - decay**12), rtol=1e-10, atol=0)
    assert found["1.num_batches_tracked"] == 12


def test_a_very_long_average_is_the_equal_mean_of_torch() -> None:
    states = trajectory(7)
    oracle = AveragedModel(states[0], use_buffers=True)
    for state in states:
        oracle.update_parameters(state)
    found = averaged(states, 1e9)
    for name, tensor in oracle.module.state_dict().items():
        if tensor.is_floating_point():
            torch.testing.assert_close(found[name], tensor, rtol=1e-7, atol=1e-9)


def test_frozen_parts_stay_equal_and_the_training_is_the_same(sample: Path) -> None:
    recipe = replace(TINY, norms="freeze-but-first", freeze_stages=2)
    plain, batches = tiny_run(sample, recipe)
    state, _ = tiny_run(sample, replace(recipe, average_epochs=1.5))
    assert state.average is not None
    for batch in batches[:2]:
        assert train_step(state, [batch]) == train_step(plain, [batch])
    assert are_identical(state.model.state_dict(), plain.model.state_dict())
    means, values = state.average.network.state_dict(), state.model.state_dict()
    equal = {name for name in values if torch.equal(means[name], values[name])}
    trained = {name for name, p in state.model.named_parameters() if p.requires_grad}
    assert equal >= values.keys() - trained
    assert "res5.0.spatial.conv.weight" in trained - equal
    assert not any(parameter.requires_grad for parameter in state.average.network.parameters())


@pytest.fixture(scope="module")
def finished(sample: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return the folder of an uninterrupted run."""
    out = tmp_path_factory.mktemp("average") / "run"
    assert run(options(sample, out, AVERAGED)) == 0
    return out


def test_averaged_network_is_validated_and_saved(finished: Path) -> None:
    checkpoint = newest(finished)
    last = load_file(finished / LAST_FILE)
    assert are_identical(last, checkpoint.average)
    assert not torch.equal(last["stem.conv.weight"], checkpoint.model["stem.conv.weight"])
    assert not torch.equal(last["stem.bn.running_var"], checkpoint.model["stem.bn.running_var"])
    loaded = load_model(find_checkpoints(finished)[0])
    assert are_identical(loaded.state_dict(), last)
    best = log_lines(finished, "epoch")[-1]["best_epoch"]
    of_epoch = {1: find_checkpoints(finished)[1], 2: find_checkpoints(finished)[0]}
    contents = torch.load(of_epoch[best], weights_only=True)
    assert are_identical(load_file(finished / BEST_FILE), contents["average"])


def test_killed_run_resumes_to_identical_averages(
    finished: Path, sample: Path, tmp_path: Path
) -> None:
    flags = train_flags(sample, tmp_path, average_epochs=1.5, save_steps=1)
    finish(ended_run.start("SIGKILL", 2, *flags), code=-signal.SIGKILL)
    assert newest(tmp_path).progress.step == 2
    assert run(options(sample, tmp_path, AVERAGED, resume=True)) == 0
    ours, theirs = newest(tmp_path), newest(finished)
    assert are_identical(ours.average, theirs.average)
    assert are_identical(ours.model, theirs.model)
    assert are_identical(load_file(tmp_path / LAST_FILE), load_file(finished / LAST_FILE))


@pytest.mark.parametrize("damage", ["missing", "one missing", "other shape"])
def test_checkpoint_with_a_damaged_average_is_refused(
    damage: str, finished: Path, sample: Path
) -> None:
    contents = torch.load(find_checkpoints(finished)[0], weights_only=True, mmap=True)
    if damage == "missing":
        contents["average"] = {}
    elif damage == "one missing":
        del contents["average"]["fc.bias"]
    else:
        contents["average"]["fc.bias"] = torch.zeros(9)
    with pytest.raises(ValueError, match="'average' is damaged"):
        restorable_network(CheckpointState.from_dict(contents), options(sample, finished, AVERAGED))
