"""Parameter groups, learning-rate schedules and frozen layers."""

from __future__ import annotations

import io
import math
from dataclasses import replace
from typing import get_args

import pytest
import torch
from torch import nn
from torch.optim import SGD
from torch.optim.lr_scheduler import LRScheduler

from p3d.errors import UserError
from p3d.model.network import P3D, create_model
from p3d.training.optim import build_optimizer, build_schedule, freeze, parameter_groups
from p3d.training.recipes import RECIPES, UCF101, UCF101_PAPER, Recipe, Schedule, find_recipe

WITH_MULTIPLIERS = replace(UCF101, head_weight_rate=10.0, head_bias_rate=20.0, stem_rate=5.0)


@pytest.fixture(scope="module")
def shared() -> P3D:
    return create_model("p3d63", num_classes=3)


@pytest.mark.parametrize("recipe", RECIPES.values(), ids=RECIPES)
def test_every_parameter_is_in_one_group_or_frozen(recipe: Recipe) -> None:
    model = create_model("p3d63", num_classes=3)
    freeze(model, recipe)
    grouped = [p for group in parameter_groups(model, recipe) for p in group.parameters]
    assert len({id(p) for p in grouped}) == len(grouped)
    assert {id(p) for p in model.parameters() if p.requires_grad} == {id(p) for p in grouped}


def test_groups_have_the_recipes_multipliers_and_the_authors_decay(shared: P3D) -> None:
    found = {
        group.name: (group.lr_mult, group.weight_decay, len(group.parameters))
        for group in parameter_groups(shared, WITH_MULTIPLIERS)
    }
    assert found == {
        "stem weights": (5.0, 1e-4, 1),
        "stem BN": (5.0, 0.0, 2),
        "convolutions": (1.0, 1e-4, 65),
        "BN": (1.0, 0.0, 130),
        "classifier weight": (10.0, 1e-4, 1),
        "classifier bias": (20.0, 0.0, 1),
    }


def build(
    schedule: Schedule, model: P3D, steps: int = 60, **changes: object
) -> tuple[SGD, LRScheduler]:
    recipe = replace(WITH_MULTIPLIERS, schedule=schedule, milestones=(20, 40), **changes)
    optimizer = build_optimizer(parameter_groups(model, recipe), recipe)
    return optimizer, build_schedule(optimizer, recipe, 10, steps)


def advance(optimizer: SGD, scheduler: LRScheduler, steps: int) -> list[dict[str, float]]:
    """Run some steps and return the learning rate of each group at each of them."""
    lrs = []
    for _ in range(steps):
        lrs.append({group["name"]: group["lr"] for group in optimizer.param_groups})
        optimizer.step()
        scheduler.step()
    return lrs


def base_lrs(schedule: Schedule, steps: int, model: P3D, **changes: object) -> list[float]:
    """Return the learning rate for a multiplier of 1 at each step of a run."""
    lrs = advance(*build(schedule, model, steps, **changes), steps)
    return [by_group["convolutions"] for by_group in lrs]


@pytest.mark.parametrize("schedule", get_args(Schedule))
def test_every_schedule_keeps_the_multipliers(schedule: Schedule, shared: P3D) -> None:
    for lrs in advance(*build(schedule, shared), 60):
        base = lrs["convolutions"]
        assert lrs == {
            "stem weights": pytest.approx(5 * base),
            "stem BN": lrs["stem weights"],
            "convolutions": base,
            "BN": pytest.approx(base),
            "classifier weight": pytest.approx(10 * base),
            "classifier bias": pytest.approx(20 * base),
        }


@pytest.mark.parametrize("stop", [1, 20, 37])
@pytest.mark.parametrize("schedule", get_args(Schedule))
def test_resume_keeps_the_schedule_and_the_multipliers(
    schedule: Schedule, stop: int, shared: P3D
) -> None:
    expected = advance(*build(schedule, shared), 60)
    optimizer, scheduler = build(schedule, shared)
    before = advance(optimizer, scheduler, stop)
    file = io.BytesIO()
    torch.save({"optimizer": optimizer.state_dict(), "schedule": scheduler.state_dict()}, file)
    file.seek(0)
    state = torch.load(file, weights_only=True)

    optimizer, scheduler = build(schedule, shared)
    optimizer.load_state_dict(state["optimizer"])
    scheduler.load_state_dict(state["schedule"])
    assert scheduler.get_last_lr() == [group["lr"] for group in optimizer.param_groups]
    assert before + advance(optimizer, scheduler, 60 - stop) == expected


def test_cyclic_schedule_is_a_triangle_from_lr_to_six_times_lr(shared: P3D) -> None:
    for step, lr in enumerate(base_lrs("cyclic", 81, shared)):
        height = 1 - abs((step % 40) - 20) / 20  # 2 epochs of 10 steps up, 2 down
        assert lr == pytest.approx(1e-3 * (1 + 5 * height))


def test_step_schedule_divides_lr_by_ten_at_each_milestone(shared: P3D) -> None:
    lrs = base_lrs("step", 60, shared)
    assert lrs == pytest.approx([1e-3] * 20 + [1e-4] * 20 + [1e-5] * 20)


def test_cosine_schedule_follows_a_cosine(shared: P3D) -> None:
    assert base_lrs("cosine", 50, shared) == pytest.approx(
        [1e-3 * (1 + math.cos(math.pi * step / 50)) / 2 for step in range(50)]
    )


def test_one_cycle_schedule_peaks_at_lr_and_ends_near_zero(shared: P3D) -> None:
    lrs = base_lrs("one-cycle", 100, shared, warmup=0.25)
    assert max(lrs) == pytest.approx(1e-3, rel=1e-2)
    assert lrs.index(max(lrs)) in (24, 25)
    assert lrs[-1] < 1e-5


@pytest.mark.parametrize("steps", [1, 2, 3, 4, 9])
@pytest.mark.parametrize("warmup", [0.0, 0.25, 1.0])
def test_one_cycle_schedule_works_for_the_shortest_runs(
    steps: int, warmup: float, shared: P3D
) -> None:
    assert all(0 < lr <= 1e-3 for lr in base_lrs("one-cycle", steps, shared, warmup=warmup))


def train_one_step(model: P3D, recipe: Recipe) -> None:
    optimizer = build_optimizer(parameter_groups(model, recipe), recipe)
    model.train()
    model(torch.randn(2, 3, 4, 16, 16)).square().sum().backward()
    optimizer.step()


def norm_state(model: P3D) -> dict[str, dict[str, torch.Tensor]]:
    return {
        name: {key: value.clone() for key, value in module.state_dict().items()}
        for name, module in model.named_modules()
        if isinstance(module, nn.BatchNorm2d)
    }


@pytest.mark.parametrize(
    ("policy", "training"),
    [("train", None), ("freeze-but-first", {"stem.bn"}), ("freeze-all", set())],
)
def test_policy_decides_which_norms_train(policy: str, training: set[str] | None) -> None:
    model = create_model("p3d63", num_classes=2)
    recipe = replace(UCF101, norms=policy, dropout=0.0)
    freeze(model, recipe)
    before = norm_state(model)
    train_one_step(model, recipe)
    changed = {
        name
        for name, state in norm_state(model).items()
        if any(not torch.equal(state[key], before[name][key]) for key in state)
    }
    assert changed == (before.keys() if training is None else training)


def test_frozen_norms_use_running_statistics_in_training() -> None:
    model = create_model("p3d63", num_classes=2, dropout=0.0)
    clips = torch.randn(2, 3, 4, 16, 16)
    freeze(model, replace(UCF101, norms="freeze-all"))
    for _ in range(2):  # evaluation between two epochs must not unfreeze them
        expected = model.eval()(clips)
        assert torch.equal(model.train()(clips), expected)
    assert model.training
    assert model.res3.training
    assert not any(norm.training for norm in model.frozen_norms)

    freeze(model, replace(UCF101, norms="train"))
    assert not torch.allclose(model.train()(clips), expected)


def test_paper_policy_freezes_201_of_202_norms() -> None:
    with torch.device("meta"):
        model = create_model("p3d199", num_classes=400)
    freeze(model, UCF101_PAPER)
    assert len(model.frozen_norms) == 201
    assert model.stem.bn not in model.frozen_norms


def test_frozen_stages_do_not_change() -> None:
    model = create_model("p3d63", num_classes=2)
    recipe = replace(UCF101, freeze_stages=2)
    freeze(model, recipe)
    before = {name: tensor.clone() for name, tensor in model.state_dict().items()}
    train_one_step(model, recipe)
    for name, tensor in model.state_dict().items():
        frozen = name.startswith(("stem.", "res2."))
        if frozen or name.endswith("conv.weight"):
            assert torch.equal(tensor, before[name]) == frozen, name


def test_unknown_recipe_error_lists_the_recipes() -> None:
    with pytest.raises(UserError, match="choose one of: ucf101, ucf101-paper, finetune-small"):
        find_recipe("ucf")


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"epochs": 0}, "--epochs is 0"),
        ({"lr": -1.0}, "--lr is -1.0"),
        ({"flip_probability": 2.0}, "--flip-probability is 2.0"),
        ({"max_steps": 0}, "--max-steps is 0"),
        ({"freeze_stages": 6}, "--freeze-stages is 6"),
    ],
)
def test_recipe_values_out_of_range_are_rejected(changes: dict[str, float], message: str) -> None:
    with pytest.raises(UserError, match=message):
        replace(UCF101, **changes)
