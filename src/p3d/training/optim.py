"""Parameter groups, frozen layers and the learning-rate schedule.

Every parameter is in exactly one group or is frozen. A group's multiplier is part of its own
learning rate, and PyTorch's schedules scale the rate of each group separately, so the multipliers
hold at every step and after a resume.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

from torch import nn
from torch.optim import SGD, lr_scheduler
from torch.optim.lr_scheduler import LRScheduler

from p3d.model.network import P3D
from p3d.training.recipes import NormPolicy, Recipe


@dataclass(frozen=True)
class ParameterGroup:
    """Parameters that share a learning rate and a weight decay.

    Attributes:
        name: Name of the group, for logs.
        parameters: The parameters, in the network's order.
        lr_mult: Multiplier of the recipe's learning rate.
        weight_decay: L2 penalty.
    """

    name: str
    parameters: tuple[nn.Parameter, ...]
    lr_mult: float
    weight_decay: float


def freeze(model: P3D, recipe: Recipe) -> None:
    """Freeze the stages and batch normalizations that the recipe does not train.

    A frozen normalization uses its running statistics in training mode too and does not update
    them, and its affine parameters are not trained (as in 201 of the 202 BN layers of the authors'
    released graphs).
    """
    stages = (model.stem, model.res2, model.res3, model.res4, model.res5)
    frozen_stages = stages[: recipe.freeze_stages]
    for parameter in _parameters(frozen_stages):
        parameter.requires_grad_(False)
    norms = {norm: None for norm in _norms([model]) if _is_frozen(norm, model, recipe.norms)}
    norms |= dict.fromkeys(_norms(frozen_stages))
    for parameter in _parameters(norms):
        parameter.requires_grad_(False)
    model.frozen_norms = tuple(norms)
    model.train(model.training)


def _is_frozen(norm: nn.Module, model: P3D, policy: NormPolicy) -> bool:
    return policy == "freeze-all" or (policy == "freeze-but-first" and norm is not model.stem.bn)


def _parameters(modules: Iterable[nn.Module]) -> list[nn.Parameter]:
    return [parameter for module in modules for parameter in module.parameters()]


def _norms(modules: Iterable[nn.Module]) -> list[nn.Module]:
    return [m for module in modules for m in module.modules() if isinstance(m, nn.BatchNorm2d)]


def parameter_groups(model: P3D, recipe: Recipe) -> tuple[ParameterGroup, ...]:
    """Sort the trainable parameters into groups and return those that are not empty.

    Weight decay applies only to the weights of convolutions and of the classifier (it is zero for
    BN and biases in the authors' released graphs).
    """
    decay = recipe.weight_decay
    sorted_into: dict[tuple[str, float, float], list[nn.Parameter]] = {
        ("stem weights", recipe.stem_rate, decay): [],
        ("stem BN", recipe.stem_rate, 0.0): [],
        ("convolutions", 1.0, decay): [],
        ("BN", 1.0, 0.0): [],
        ("classifier weight", recipe.head_weight_rate, decay): [],
        ("classifier bias", recipe.head_bias_rate, 0.0): [],
    }
    keys = {key[0]: key for key in sorted_into}
    for name, parameter in model.named_parameters():
        if parameter.requires_grad:
            sorted_into[keys[_group_of(name)]].append(parameter)
    groups = tuple(
        ParameterGroup(name, tuple(parameters), lr_mult, weight_decay)
        for (name, lr_mult, weight_decay), parameters in sorted_into.items()
        if parameters
    )
    _assert_complete(model, groups)
    return groups


def _group_of(name: str) -> str:
    if name.startswith("fc."):
        return "classifier weight" if name == "fc.weight" else "classifier bias"
    is_norm = ".bn." in name
    if name.startswith("stem."):
        return "stem BN" if is_norm else "stem weights"
    return "BN" if is_norm else "convolutions"


def _assert_complete(model: P3D, groups: Iterable[ParameterGroup]) -> None:
    """Assert that every parameter is in exactly one group or frozen."""
    grouped = [id(parameter) for group in groups for parameter in group.parameters]
    trainable = [id(p) for p in model.parameters() if p.requires_grad]
    assert len(grouped) == len(set(grouped))
    assert set(grouped) == set(trainable)


def build_optimizer(groups: Iterable[ParameterGroup], recipe: Recipe) -> SGD:
    """Build SGD over the groups, each with its own learning rate."""
    return SGD(
        [
            {
                "params": list(group.parameters),
                "lr": recipe.lr * group.lr_mult,
                "weight_decay": group.weight_decay,
                "name": group.name,
                "lr_mult": group.lr_mult,
            }
            for group in groups
        ],
        lr=recipe.lr,
        momentum=recipe.momentum,
        nesterov=recipe.nesterov,
    )


def build_schedule(optimizer: SGD, recipe: Recipe, steps_per_epoch: int, steps: int) -> LRScheduler:
    """Build PyTorch's schedule for the recipe, to be advanced once an optimizer step.

    Args:
        optimizer: The rates of its groups are the highest (one-cycle), lowest (cyclic) or first.
        recipe: The schedule and its parameters.
        steps_per_epoch: Optimizer steps in an epoch.
        steps: Optimizer steps of the whole run.
    """
    lrs = [group["lr"] for group in optimizer.param_groups]
    match recipe.schedule:
        case "cyclic":
            return lr_scheduler.CyclicLR(
                optimizer,
                base_lr=lrs,
                max_lr=[lr * recipe.cyclic_factor for lr in lrs],
                step_size_up=max(1, round(recipe.cyclic_half_epochs * steps_per_epoch)),
                cycle_momentum=False,
            )
        case "step":
            return lr_scheduler.MultiStepLR(optimizer, list(recipe.milestones), gamma=0.1)
        case "cosine":
            return lr_scheduler.CosineAnnealingLR(optimizer, T_max=steps)
        case "one-cycle":
            # PyTorch's schedule divides by zero if one of its parts is a single step.
            total, shortest = max(steps, 8), 2 / max(steps, 8)
            return lr_scheduler.OneCycleLR(
                optimizer,
                max_lr=lrs,
                total_steps=total,
                pct_start=min(max(recipe.warmup, shortest), 1 - shortest),
                cycle_momentum=False,
            )
        case "constant":
            return lr_scheduler.LambdaLR(optimizer, lambda _: 1.0)
