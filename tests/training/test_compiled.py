"""Training runs with `--compile` on a CPU."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pytest
import torch

from helpers.compiled_norms import compiled_norms
from helpers.runs import are_identical, log_lines, options, weights
from p3d.errors import UserError
from p3d.model.fused_norm import FusedNorm
from p3d.model.network import create_model
from p3d.model.sync_batchnorm import synchronize_norms
from p3d.run_folder import find_checkpoints
from p3d.system.compiler import find_compiler
from p3d.training.network import compile_network
from p3d.training.options import TrainOptions
from p3d.training.train import run

pytestmark = [
    pytest.mark.usefixtures("narrow_networks"),
    pytest.mark.skipif(find_compiler() is None, reason="no C++ compiler"),
]


@pytest.fixture(autouse=True, scope="module")
def any_size() -> Iterator[None]:
    with compiled_norms():
        yield


def compiled(given: TrainOptions) -> TrainOptions:
    return replace(given, compute=replace(given.compute, compile=True))


def losses(out: Path) -> list[float]:
    return [line["train_loss"] for line in log_lines(out, "epoch")]


def test_a_compiled_run_learns_the_same_and_resumes_to_identical_weights(
    sample: Path, tmp_path: Path
) -> None:
    plain, whole, resumed = tmp_path / "plain", tmp_path / "whole", tmp_path / "resumed"
    assert run(options(sample, plain)) == 0
    assert run(compiled(options(sample, whole))) == 0
    assert losses(whole) == pytest.approx(losses(plain), rel=1e-3)
    assert not are_identical(weights(whole), weights(plain))  # other rounding: it was compiled
    earlier, _ = sorted(find_checkpoints(whole))
    resumed.mkdir()
    (resumed / earlier.name).hardlink_to(earlier)
    assert run(compiled(options(sample, resumed, resume=True))) == 0
    assert are_identical(weights(resumed), weights(whole))


def test_only_normalizations_are_compiled_on_a_cpu() -> None:
    model = create_model("p3d63", num_classes=3)
    assert compile_network(model, torch.device("cpu")) is model
    assert isinstance(model.stem.bn, FusedNorm)


def test_synchronized_norms_are_refused_on_a_cpu() -> None:
    model = create_model("p3d63", num_classes=3)
    synchronize_norms(model)
    with pytest.raises(UserError, match=r"^--compile and --sync-norms cannot be combined on a CPU"):
        compile_network(model, torch.device("cpu"))
