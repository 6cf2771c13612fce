"""Compiled batch normalization with what follows it, against PyTorch's operations in float64."""

import copy
from collections.abc import Callable, Iterator
from dataclasses import replace
from typing import Any

import pytest
import torch
from hypothesis import example, given, settings
from hypothesis import strategies as st
from torch import Tensor, nn
from torch.nn import functional as F

from helpers.compiled_norms import compiled_norms
from p3d.errors import UserError
from p3d.model.fused_norm import FusedNorm, fuse_norms, relu_of_sum
from p3d.model.network import P3D, create_model
from p3d.system.compiler import find_compiler
from p3d.training.optim import freeze
from p3d.training.recipes import UCF101

pytestmark = pytest.mark.skipif(find_compiler() is None, reason="no C++ compiler")


@pytest.fixture(autouse=True, scope="module")
def any_size() -> Iterator[None]:
    with compiled_norms():
        yield


def drawn_norm(channels: int) -> FusedNorm:
    norm = FusedNorm(channels).double()
    for parameter in (norm.weight, norm.bias, norm.running_mean):
        nn.init.normal_(parameter)
    return norm


def plain_norm(norm: FusedNorm) -> nn.BatchNorm2d:
    plain = nn.BatchNorm2d(norm.num_features).double()
    plain.load_state_dict(norm.state_dict())
    return plain


def images(count: int, channels: int, height: int, width: int, *, shift: float = 0) -> Tensor:
    x = shift + torch.randn(count, channels, height, width, dtype=torch.float64)
    return x.contiguous(memory_format=torch.channels_last).requires_grad_()


def assert_equal(
    norm: FusedNorm, plain: nn.BatchNorm2d, out: Tensor, expected: Tensor, *inputs: Tensor
) -> None:
    """Assert equal results, gradients of inputs and parameters, and running statistics."""
    torch.testing.assert_close(out, expected, rtol=1e-9, atol=1e-9)
    seed = torch.randn_like(out)
    found = torch.autograd.grad(out, (*inputs, norm.weight, norm.bias), seed)
    wanted = torch.autograd.grad(expected, (*inputs, plain.weight, plain.bias), seed)
    torch.testing.assert_close(found, wanted, rtol=1e-8, atol=1e-8)
    for name, value in plain.named_buffers():
        torch.testing.assert_close(norm.get_buffer(name), value, rtol=1e-10, atol=1e-10)


SIZES = {
    "count": st.integers(1, 3).map(lambda pairs: 2 * pairs),
    "channels": st.integers(2, 40),
    "height": st.integers(2, 9),
    "width": st.integers(2, 80),
    "seed": st.integers(0, 99),
}


# Code for any size is compiled for the first example, if none of its sizes are equal.
LARGE = {"count": 4, "channels": 40, "height": 9, "width": 80, "seed": 0}


@settings(max_examples=40, deadline=None)
@given(**SIZES, factor=st.sampled_from([None, 1.0, 0.5]))
@example(**LARGE, factor=None)
@example(**LARGE, factor=0.5)
def test_relu_equals_norm_sum_and_relu(
    count: int, channels: int, height: int, width: int, seed: int, factor: float | None
) -> None:
    torch.manual_seed(seed)
    norm = drawn_norm(channels)
    plain, x = plain_norm(norm), images(count, channels, height, width)
    if factor is None:
        assert_equal(norm, plain, norm.relu(x), plain(x).relu(), x)
        return
    addend = images(count, channels, height, width)
    expected = (factor * (plain(x) + addend)).relu()
    assert_equal(norm, plain, norm.relu(x, addend, factor), expected, x, addend)


# Code for a single pair and for images of at most 64 pixels, which the test of numerical gradients
# has, is compiled by itself.
@settings(max_examples=25, deadline=None)
@given(**SIZES | {"width": st.integers(33, 80)})
@example(**LARGE)
def test_max_of_pairs_equals_norm_and_maximum(
    count: int, channels: int, height: int, width: int, seed: int
) -> None:
    torch.manual_seed(seed)
    norm = drawn_norm(channels)
    plain, x = plain_norm(norm), images(count, channels, height, width)
    expected = plain(x).unflatten(0, (-1, 2)).amax(1)
    assert_equal(norm, plain, norm.max_of_pairs(x), expected, x)


@pytest.mark.parametrize("factor", [1.0, 0.5])
def test_relu_of_sum_has_the_gradients_of_both(factor: float) -> None:
    torch.manual_seed(0)
    x, addend = images(3, 5, 4, 7), images(3, 5, 4, 7)
    out, expected = relu_of_sum(x, addend, factor), ((x + addend) * factor).relu()
    torch.testing.assert_close(out, expected)
    seed = torch.randn_like(out)
    found = torch.autograd.grad(out, (x, addend), seed)
    torch.testing.assert_close(found, torch.autograd.grad(expected, (x, addend), seed))


def test_gradients_equal_numerical_ones() -> None:
    torch.manual_seed(1)
    norm, x, addend = drawn_norm(3), images(4, 3, 2, 3), images(4, 3, 2, 3)

    def outputs(x: Tensor, addend: Tensor, *_: Tensor) -> tuple[Tensor, ...]:
        return norm.relu(x), norm.relu(x, addend, 0.5), norm.max_of_pairs(x)

    assert torch.autograd.gradcheck(outputs, (x, addend, norm.weight, norm.bias))


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_a_mean_far_from_zero_costs_no_precision(dtype: torch.dtype) -> None:
    torch.manual_seed(2)
    norm, x = drawn_norm(16), images(4, 16, 10, 10, shift=300).detach().to(dtype)
    plain = plain_norm(norm)
    out, expected = norm.float().relu(x), plain(x.double()).relu()
    torch.testing.assert_close(out.double(), expected, rtol=1e-2, atol=2e-4)
    torch.testing.assert_close(norm.running_var.double(), plain.running_var, rtol=1e-5, atol=1e-5)


def network(wiring: str, prepare: Callable[[P3D], object]) -> tuple[P3D, P3D]:
    """Return a network of float64 with fused norms, and its plain twin."""
    torch.manual_seed(3)
    plain = create_model("p3d63", num_classes=3, wiring=wiring, dropout=0.0).double()
    for module in plain.modules():
        if isinstance(module, nn.BatchNorm2d):
            nn.init.uniform_(module.weight, 0.5, 1.5)
            # With smaller ones, a narrow stem's maxima are all positive: its bias has no gradient.
            nn.init.normal_(module.bias, std=0.5)
    prepare(plain)
    fused = copy.deepcopy(plain)
    fuse_norms(fused)
    return fused.train(), plain.train()


def gradients(model: P3D, clips: Tensor) -> dict[str, Tensor]:
    model.zero_grad()
    F.cross_entropy(model(clips), torch.tensor([0, 2])).backward()
    return {name: value.grad for name, value in model.named_parameters() if value.grad is not None}


def keep_inputs_only(model: P3D) -> None:
    model.checkpoint_activations = True


def freeze_but_first(model: P3D) -> None:
    freeze(model, replace(UCF101, norms="freeze-but-first"))
    assert model.frozen_norms


@pytest.mark.parametrize(
    ("wiring", "prepare"),
    [
        ("author", lambda _: None),
        ("port", lambda _: None),
        ("author", freeze_but_first),
        ("author", keep_inputs_only),
    ],
)
@pytest.mark.usefixtures("few_channels")
def test_a_network_trains_the_same(wiring: str, prepare: Callable[[P3D], Any]) -> None:
    fused, plain = network(wiring, prepare)
    # Normalizations over fewer pixels would multiply rounding errors.
    clips = torch.randn(2, 3, 16, 64, 64, dtype=torch.float64)
    found, wanted = gradients(fused, clips), gradients(plain, clips)
    assert found.keys() == wanted.keys()
    for name, value in wanted.items():
        assert torch.linalg.vector_norm(found[name] - value) <= 1e-9 * value.norm(), name
    for name, value in plain.named_buffers():
        torch.testing.assert_close(fused.get_buffer(name), value, rtol=1e-9, atol=1e-9)
    fused.eval()
    plain.eval()
    torch.testing.assert_close(fused(clips), plain(clips))


def test_fused_norms_keep_parameters_and_what_is_frozen() -> None:
    model = create_model("p3d63", num_classes=3)
    freeze_but_first(model)
    parameters, frozen = list(model.parameters()), model.frozen_norms
    fuse_norms(model)
    assert all(mine is theirs for mine, theirs in zip(model.parameters(), parameters, strict=True))
    assert all(isinstance(norm, FusedNorm) for norm in frozen)
    assert isinstance(model.stem.bn, FusedNorm)


def test_without_a_compiler_one_line_says_what_to_install(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("CXX", "no-such-compiler")
    with pytest.raises(UserError, match=r"^--compile needs a C\+\+ compiler.*install g\+\+"):
        fuse_norms(create_model("p3d63", num_classes=3))
