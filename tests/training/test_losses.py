"""Class weights and label smoothing: the loss, its gradient, and the options."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch

from helpers.runs import TINY, options, tiny_run
from p3d.data.balance import class_weights
from p3d.data.layouts import read_dataset
from p3d.errors import UserError
from p3d.training.options import NEW_SETTINGS, check_same, fingerprint
from p3d.training.recipes import RECIPES
from p3d.training.step import losses, train_step

pytestmark = pytest.mark.usefixtures("narrow_networks")


@pytest.mark.parametrize("smoothing", [0.0, 0.1])
@pytest.mark.parametrize("weighted", [False, True])
def test_losses_are_those_of_their_definition(smoothing: float, weighted: bool) -> None:
    """Write out the sums, in float64; torch's weighted mean is the objective / sum of weights."""
    torch.manual_seed(0)
    logits = torch.randn(7, 4, dtype=torch.float64, requires_grad=True)
    labels = torch.tensor([0, 0, 0, 0, 1, 1, 2])
    weights = torch.from_numpy(class_weights(labels.numpy(), 4)) if weighted else None
    objective, loss = losses(logits, labels, weights, smoothing)
    scores = -logits.log_softmax(1)
    assert loss.item() == pytest.approx(sum(scores[i, y].item() for i, y in enumerate(labels)))
    ones = torch.ones(4, dtype=torch.float64)
    w = ones if weights is None else weights
    targets = (1 - smoothing) * torch.eye(4, dtype=torch.float64)[labels] + smoothing / 4
    expected = (scores * targets * w).sum()
    torch.testing.assert_close(objective, expected)
    mean = torch.nn.functional.cross_entropy(logits, labels, weights, label_smoothing=smoothing)
    torch.testing.assert_close(objective / w[labels].sum(), mean)
    got, want = (
        torch.autograd.grad(each, logits, retain_graph=True)[0] for each in (objective, expected)
    )
    torch.testing.assert_close(got, want)
    assert not loss.requires_grad


def test_the_logged_loss_is_comparable(sample: Path) -> None:
    """The first step of a run logs the same loss with weights and smoothing, and learns another."""
    steps, weights = [], []
    for changes in ({}, {"class_weights": True, "label_smoothing": 0.3}):
        state, batches = tiny_run(sample, replace(TINY, dropout=0.0, **changes))
        if changes:
            assert state.class_weights is not None
            state.class_weights[0] = 3.0  # the sample set has classes of equal size
        steps.append(train_step(state, batches[:1]))
        weights.append(state.model.fc.bias.detach().clone())
    assert steps[0].loss == steps[1].loss
    assert steps[0].gradient_norm != steps[1].gradient_norm
    assert not torch.equal(*weights)


def test_class_weights_of_the_training_list(sample: Path) -> None:
    state, _ = tiny_run(sample, replace(TINY, class_weights=True))
    labels = np.array([record.label for record in read_dataset(sample, "train").records])
    np.testing.assert_allclose(state.class_weights, class_weights(labels, 8), rtol=1e-6)
    assert tiny_run(sample, TINY)[0].class_weights is None


def test_published_recipes_have_none_of_it() -> None:
    for recipe in RECIPES.values():
        settings = NEW_SETTINGS.keys() - {"fps"}
        assert not any(getattr(recipe, name) for name in settings)


def test_earlier_checkpoints_can_be_resumed(sample: Path) -> None:
    dataset = read_dataset(sample, "train")
    plain = fingerprint(options(sample, Path("x")), dataset)
    flags = {f"--{name.replace('_', '-')}" for name in NEW_SETTINGS}
    assert not flags & plain.keys()
    changed = fingerprint(options(sample, Path("x"), replace(TINY, balance=True)), dataset)
    with pytest.raises(UserError, match="has --balance unset, not True; go on"):
        check_same("the run", plain, changed, "go on")


@pytest.mark.parametrize("value", [-0.1, 1.0, float("nan")])
def test_smoothing_out_of_range(value: float) -> None:
    with pytest.raises(UserError, match=r"--label-smoothing is .*; give a value in \[0, 1\)"):
        replace(TINY, label_smoothing=value)


def test_balance_and_weights_exclude_each_other() -> None:
    with pytest.raises(UserError, match="--balance and --class-weights both make up"):
        replace(TINY, balance=True, class_weights=True)
