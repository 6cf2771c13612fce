"""Every parameter in one group, multipliers that last, norms that stay frozen."""

from __future__ import annotations

import io
import math
from dataclasses import replace

import pytest
import torch
from torch import nn
from torch.optim import SGD
from torch.optim.lr_scheduler import LRScheduler

from p3d.errors import UserError
from p3d.model.network import P3D, create_model
from p3d.training.optim import build_optimizer, build_schedule, freeze, parameter_groups
from p3d.training.recipes import RECIPES, UCF101, UCF101_PAPER, Recipe, Schedule, find_recipe

MULTIPLIED = replace(UCF101, head_weight_rate=10.0, head_bias_rate=20.0, stem_rate=5.0)


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


def test_groups_have_the_authors_multipliers_and_decays(shared: P3D) -> None:
    found = {
        group.name: (group.lr_mult, group.weight_decay, len(group.parameters))
        for group in parameter_groups(shared, MULTIPLIED)
    }
    assert found == {
        "stem weights": (5.0, 1e-4, 1),
        "stem BN": (5.0, 0.0, 2),
        "convolutions": (1.0, 1e-4, 65),
        "BN": (1.0, 0.0, 130),
        "classifier weight": (10.0, 1e-4, 1),
        "classifier bias": (20.0, 0.0, 1),
    }


def rates(schedule: Schedule, steps: int, model: P3D, **changes: object) -> list[list[float]]:
    """Each group's rate at each step."""
    recipe = replace(MULTIPLIED, schedule=schedule, **changes)
    optimizer = build_optimizer(parameter_groups(model, recipe), recipe)
    scheduler = build_schedule(optimizer, recipe, 10, steps)
    seen = []
    for _ in range(steps):
        seen.append([group["lr"] for group in optimizer.param_groups])
        optimizer.step()
        scheduler.step()
    return seen


@pytest.mark.parametrize("schedule", ["cyclic", "step", "cosine", "one-cycle", "constant"])
def test_multipliers_survive_every_schedule(schedule: Schedule, shared: P3D) -> None:
    for stem, stem_bn, convolutions, norms, weight, bias in rates(
        schedule, 60, shared, milestones=(20, 40)
    ):
        assert stem == stem_bn == pytest.approx(5 * convolutions)
        assert norms == pytest.approx(convolutions)
        assert weight == pytest.approx(10 * convolutions)
        assert bias == pytest.approx(20 * convolutions)


def build(schedule: Schedule, model: P3D) -> tuple[SGD, LRScheduler]:
    recipe = replace(MULTIPLIED, schedule=schedule, milestones=(20, 40))
    optimizer = build_optimizer(parameter_groups(model, recipe), recipe)
    return optimizer, build_schedule(optimizer, recipe, 10, 60)


def follow(optimizer: SGD, scheduler: LRScheduler, steps: int) -> list[dict[str, float]]:
    """Go on for some steps; each group's rate at each of them."""
    seen = []
    for _ in range(steps):
        seen.append({group["name"]: group["lr"] for group in optimizer.param_groups})
        optimizer.step()
        scheduler.step()
    return seen


@pytest.mark.parametrize("stop", [1, 20, 37])
@pytest.mark.parametrize("schedule", ["cyclic", "step", "cosine", "one-cycle", "constant"])
def test_multipliers_survive_a_resume(schedule: Schedule, stop: int, shared: P3D) -> None:
    whole = follow(*build(schedule, shared), 60)
    optimizer, scheduler = build(schedule, shared)
    begun = follow(optimizer, scheduler, stop)
    file = io.BytesIO()
    torch.save({"optimizer": optimizer.state_dict(), "schedule": scheduler.state_dict()}, file)
    file.seek(0)
    state = torch.load(file, weights_only=True)

    optimizer, scheduler = build(schedule, shared)
    optimizer.load_state_dict(state["optimizer"])
    scheduler.load_state_dict(state["schedule"])
    assert scheduler.get_last_lr() == [group["lr"] for group in optimizer.param_groups]
    assert begun + follow(optimizer, scheduler, 60 - stop) == whole


def test_the_cyclic_rate_is_a_triangle_from_lr_to_six_times_lr(shared: P3D) -> None:
    of_convolutions = [step[2] for step in rates("cyclic", 81, shared)]
    for step, rate in enumerate(of_convolutions):
        height = 1 - abs((step % 40) - 20) / 20  # 2 epochs of 10 steps up, 2 down
        assert rate == pytest.approx(1e-3 * (1 + 5 * height))


def test_the_step_rate_falls_by_ten(shared: P3D) -> None:
    of_convolutions = [step[2] for step in rates("step", 60, shared, milestones=(20, 40))]
    assert of_convolutions == pytest.approx([1e-3] * 20 + [1e-4] * 20 + [1e-5] * 20)


def test_the_cosine_rate_follows_a_cosine(shared: P3D) -> None:
    of_convolutions = [step[2] for step in rates("cosine", 50, shared)]
    assert of_convolutions == pytest.approx(
        [1e-3 * (1 + math.cos(math.pi * step / 50)) / 2 for step in range(50)]
    )


def test_the_one_cycle_rate_peaks_at_lr_and_ends_near_zero(shared: P3D) -> None:
    of_convolutions = [step[2] for step in rates("one-cycle", 100, shared, warmup=0.25)]
    assert max(of_convolutions) == pytest.approx(1e-3, rel=1e-2)
    assert of_convolutions.index(max(of_convolutions)) in (24, 25)
    assert of_convolutions[-1] < 1e-5


@pytest.mark.parametrize("steps", [1, 2, 3, 4, 9])
@pytest.mark.parametrize("warmup", [0.0, 0.25, 1.0])
def test_the_one_cycle_rate_exists_for_the_shortest_runs(
    steps: int, warmup: float, shared: P3D
) -> None:
    for step in rates("one-cycle", steps, shared, warmup=warmup):
        assert 0 < step[2] <= 1e-3


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
def test_norms_train_as_the_policy_says(policy: str, training: set[str] | None) -> None:
    model = create_model("p3d63", num_classes=2)
    recipe = replace(UCF101, norms=policy, dropout=0.0)
    freeze(model, recipe)
    before = norm_state(model)
    train_one_step(model, recipe)
    moved = {
        name
        for name, state in norm_state(model).items()
        if any(not torch.equal(state[key], before[name][key]) for key in state)
    }
    assert moved == (before.keys() if training is None else training)


def test_frozen_norms_normalise_in_training_as_in_evaluation() -> None:
    model = create_model("p3d63", num_classes=2, dropout=0.0)
    clips = torch.randn(2, 3, 4, 16, 16)
    freeze(model, replace(UCF101, norms="freeze-all"))
    for _ in range(2):  # evaluation between two epochs must not thaw them
        expected = model.eval()(clips)
        assert torch.equal(model.train()(clips), expected)
    assert model.training
    assert model.res3.training
    assert not any(norm.training for norm in model.frozen_norms)

    freeze(model, replace(UCF101, norms="train"))
    assert not torch.allclose(model.train()(clips), expected)


def test_the_authors_policy_freezes_201_of_202_norms() -> None:
    with torch.device("meta"):
        model = create_model("p3d199", num_classes=400)
    freeze(model, UCF101_PAPER)
    assert len(model.frozen_norms) == 201
    assert model.stem.bn not in model.frozen_norms


def test_frozen_stages_do_not_move() -> None:
    model = create_model("p3d63", num_classes=2)
    recipe = replace(UCF101, freeze_stages=2)
    freeze(model, recipe)
    before = {name: tensor.clone() for name, tensor in model.state_dict().items()}
    train_one_step(model, recipe)
    for name, tensor in model.state_dict().items():
        frozen = name.startswith(("stem.", "res2."))
        if frozen or name.endswith("conv.weight"):
            assert torch.equal(tensor, before[name]) == frozen, name


def test_an_unknown_recipe_names_the_known() -> None:
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
def test_recipes_refuse_impossible_numbers(changes: dict, message: str) -> None:
    with pytest.raises(UserError, match=message):
        replace(UCF101, **changes)
