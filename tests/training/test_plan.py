"""`p3d train --plan` predicts what training does and writes no files."""

from __future__ import annotations

import re
from dataclasses import replace
from pathlib import Path
from typing import get_args

import pytest
import torch
from torch import Tensor

from helpers.runs import TINY, options, tiny_run
from helpers.tiny_networks import make_blocks_few
from p3d.errors import UserError
from p3d.model import blocks
from p3d.model.config import P3DConfig
from p3d.model.network import P3D, create_model
from p3d.preprocessing import Preprocessing, normalize
from p3d.run_folder import checkpoint_path
from p3d.system.device import Precision, autocast
from p3d.training.checkpoint_files import write_checkpoint
from p3d.training.memory import activation_bytes
from p3d.training.network import prepare_for_training
from p3d.training.optim import build_optimizer, build_schedule, freeze, parameter_groups
from p3d.training.plan import Plan, disk_bytes, lr_points, make_plan, render
from p3d.training.recipes import UCF101, UCF101_PAPER, Recipe, Schedule
from p3d.training.step import train_step
from p3d.training.train import run
from p3d.weights.metadata import save_model, skeleton

SMALL = Preprocessing(num_frames=8, resize=(48, 48), crop=48)

CPU = torch.device("cpu")


def plan_of(model: P3D, recipe: Recipe, steps_per_epoch: int, steps: int) -> Plan:
    """Return the plan of a run on one device."""
    return make_plan(
        model,
        recipe,
        clips_per_step=recipe.clips_of_step(1),
        processes=1,
        steps_per_epoch=steps_per_epoch,
        steps=steps,
        precision="fp32",
        device=CPU,
    )


def test_paper_recipe_on_the_released_network() -> None:
    model = skeleton(P3DConfig("p3d199", 101))
    freeze(model, UCF101_PAPER)
    plan = plan_of(model, UCF101_PAPER, 61, 7500)
    assert {group.name: (group.lr, group.lr_mult, group.weight_decay) for group in plan.groups} == {
        "stem weights": (1e-3, 1.0, 1e-4),
        "stem BN": (1e-3, 1.0, 0.0),
        "convolutions": (1e-3, 1.0, 1e-4),
        "classifier weight": (pytest.approx(1e-2), 10.0, 1e-4),
        "classifier bias": (pytest.approx(2e-2), 20.0, 0.0),
    }
    trained = sum(group.parameters for group in plan.groups)
    assert trained + plan.frozen_parameters == 65_879_589
    assert plan.memory.gradients == 4 * trained
    assert plan.clips_per_step == "128 clips, 16 at a time"
    assert [point.lr for point in plan.points] == pytest.approx(
        [1e-3] * 4 + [1e-4] * 4 + [1e-5] * 2
    )
    text = render(plan)
    assert "201 of 202 BN layers" in text
    assert "7,500 steps of 128 clips, 16 at a time; 61 an epoch, 123 epochs" in text


@pytest.mark.usefixtures("few_channels")
@pytest.mark.parametrize("schedule", get_args(Schedule))
@pytest.mark.parametrize("steps", [1, 7, 60])
def test_planned_lrs_equal_those_of_training(schedule: Schedule, steps: int) -> None:
    recipe = replace(UCF101, schedule=schedule, milestones=(20, 40), head_weight_rate=10.0)
    optimizer = build_optimizer(parameter_groups(skeleton(P3DConfig("p3d63", 3)), recipe), recipe)
    scheduler = build_schedule(optimizer, recipe, 8, steps)
    optimizer.step()
    lrs = []
    for _ in range(steps):
        group = next(g for g in optimizer.param_groups if g["name"] == "convolutions")
        lrs.append(group["lr"])
        scheduler.step()
    points = lr_points(recipe, 8, steps)
    assert len(points) == min(10, steps)
    assert (points[0].step, points[-1].step) == (1, steps)
    for point, following in zip(points, [*(p.step for p in points[1:]), steps + 1], strict=True):
        part = lrs[point.step - 1 : following - 1]
        assert point.lr == part[0]
        assert (point.lowest, point.highest) == (min(part), max(part))
        assert point.epoch == (point.step - 1) // 8 + 1


def saved_for_backward(config: P3DConfig, recipe: Recipe, precision: Precision) -> int:
    """Return the bytes that autograd saves in a real forward pass, without weights and pixels."""
    model = create_model(config.name, num_classes=config.num_classes, wiring=config.wiring)
    prepare_for_training(model, recipe, sync_norms=False, checkpoint_activations=False)
    size = (recipe.batch_size, SMALL.num_frames, SMALL.crop, SMALL.crop, 3)
    clips = normalize(torch.randint(0, 256, size, dtype=torch.uint8), SMALL)
    ignored = {t.untyped_storage().data_ptr() for t in (clips, *model.state_dict().values())}
    saved: dict[int, int] = {}

    def pack(tensor: Tensor) -> Tensor:
        storage = tensor.untyped_storage()
        saved[storage.data_ptr()] = storage.nbytes()
        return tensor

    with (
        torch.autograd.graph.saved_tensors_hooks(pack, lambda tensor: tensor),
        autocast(torch.device("cpu"), precision),
    ):
        logits = model(clips)
    del logits
    return sum(size for address, size in saved.items() if address not in ignored)


@pytest.mark.usefixtures("few_channels")
@pytest.mark.parametrize(
    ("wiring", "changes", "precision"),
    [
        ("author", {}, "fp32"),
        ("port", {}, "fp32"),
        ("port", {"norms": "freeze-all", "freeze_stages": 2}, "fp32"),
        ("author", {"freeze_stages": 5}, "fp32"),
        ("author", {}, "bf16"),
        ("author", {"norms": "freeze-but-first"}, "bf16"),
    ],
)
def test_activation_bytes_equal_what_autograd_saves(
    monkeypatch: pytest.MonkeyPatch, wiring: str, changes: dict, precision: Precision
) -> None:
    recipe = replace(UCF101, batch_size=2, **changes)
    config = P3DConfig("p3d63", 4, wiring=wiring)  # type: ignore[arg-type]
    model = skeleton(config)
    model.preprocessing = SMALL
    on_cpu, elsewhere = (
        activation_bytes(model, recipe, precision, torch.device(kind)) for kind in ("cpu", "cuda")
    )
    # On the meta device a frozen norm saves two vectors that it does not save on the CPU.
    saved = saved_for_backward(config, recipe, precision)
    assert on_cpu == pytest.approx(saved, rel=0.08)
    # Other devices keep the outputs of all convolutions that a norm follows.
    monkeypatch.setattr(blocks, "foresees_output", lambda *_: False)
    more = saved_for_backward(config, recipe, precision)
    assert elsewhere == pytest.approx(more, rel=0.08)
    assert elsewhere >= on_cpu
    assert more >= saved


def test_activation_checkpointing_halves_the_activations() -> None:
    model = skeleton(P3DConfig("p3d63", 4))
    whole = activation_bytes(model, UCF101, "fp32", CPU)
    model.checkpoint_activations = True
    checkpointed = activation_bytes(model, UCF101, "fp32", CPU)
    assert 0.4 * whole < checkpointed < 0.7 * whole
    one, two = (activation_bytes(model, replace(UCF101, batch_size=n), "fp32", CPU) for n in (1, 2))
    assert two == pytest.approx(2 * one, rel=0.01)


def test_fp16_halves_the_activations() -> None:
    model = skeleton(P3DConfig("p3d63", 4))
    recipe = replace(UCF101, batch_size=16)
    whole, half = (
        activation_bytes(model, recipe, precision, torch.device("cuda"))
        for precision in ("fp32", "fp16")
    )
    assert 0.5 * whole < half < 0.65 * whole


@pytest.mark.parametrize("average_epochs", [0.0, 1.0])
def test_files_have_the_planned_sizes(
    average_epochs: float, sample: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    make_blocks_few(monkeypatch)
    recipe = replace(TINY, average_epochs=average_epochs)
    state, batches = tiny_run(sample, recipe)
    best, checkpoint = disk_bytes(state.model, recipe)
    train_step(state, (batches[0],))
    write_checkpoint(tmp_path / "checkpoint", state.checkpoint({}))
    save_model(state.model, tmp_path / "best.safetensors")
    assert checkpoint == pytest.approx((tmp_path / "checkpoint").stat().st_size, rel=0.01)
    assert best == pytest.approx((tmp_path / "best.safetensors").stat().st_size, rel=0.01)


@pytest.mark.usefixtures("few_channels")
def test_plan_writes_no_files(
    sample: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert run(options(sample, tmp_path / "run", plan=True)) == 0
    assert list(tmp_path.iterdir()) == []
    output = capsys.readouterr().out
    assert "weights: from scratch" in output
    assert "4 steps of 8 clips, 8 at a time; 2 an epoch, 2 epochs" in output
    assert "at least" in output
    assert "\ntime: about" in output
    assert re.search(r"\nmemory of these steps: at most [1-9][\d,]* MiB, of the whole ", output)
    assert "a step, 4 steps, 2 validations of 8 videos" in output


@pytest.mark.usefixtures("few_channels")
def test_plan_reports_skipped_weights(
    sample: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    model = create_model("p3d63", num_classes=3)
    save_model(model, tmp_path / "three.safetensors")
    planned = options(sample, tmp_path / "run", plan=True, weights=tmp_path / "three.safetensors")
    assert run(planned) == 0
    assert "classifier of 3 classes is skipped" in capsys.readouterr().out
    assert not (tmp_path / "run").exists()


@pytest.mark.usefixtures("few_channels")
def test_plan_fails_where_the_run_would(sample: Path, tmp_path: Path) -> None:
    path = checkpoint_path(tmp_path, 3)
    path.write_bytes(b"a run")
    with pytest.raises(UserError, match="already holds a run; add --resume"):
        run(options(sample, tmp_path, plan=True))
    assert list(tmp_path.iterdir()) == [path]
