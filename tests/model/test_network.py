"""The network against a plain Conv3d version, and its use of memory without copies."""

from __future__ import annotations

from collections import Counter

import pytest
import torch
from torch import Tensor, nn
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils.flop_counter import FlopCounterMode

from helpers.tiny_networks import make_channels_few
from p3d.errors import UserError
from p3d.model.blocks import Bottleneck, ConvBN
from p3d.model.config import BLOCKS, P3DConfig
from p3d.model.network import P3D, create_model, fold_norms, zero_init_residuals
from p3d.model.plain import PlainP3D, plain_twin
from p3d.weights.loading import convert_state_dict

WIRINGS = ("author", "port")
VARIANTS = ("ABC", "A", "B", "C", "2d")
SHAPES = {1: (19, 23), 4: (33, 18), 5: (21, 20), 16: (23, 18), 32: (17, 18)}


few_channels = pytest.mark.usefixtures("few_channels")


@pytest.fixture
def few_blocks(monkeypatch: pytest.MonkeyPatch) -> None:
    """Let networks be narrow; A, B and C each come once first in a stage and once later in one."""
    make_channels_few(monkeypatch)
    monkeypatch.setitem(BLOCKS, "p3d63", (2, 2, 2, 1))


def make_pair(wiring: str, variant: str, *, name: str = "p3d63", **options) -> tuple[P3D, PlainP3D]:
    """Return our network and the plain one with the same float64 weights, in evaluation mode."""
    config = P3DConfig(name, 5, wiring=wiring, variant=variant, dropout=0.0, **options)
    plain = plain_twin(config).double().eval()
    model = P3D(config).double().eval()
    model.load_state_dict(convert_state_dict(plain.state_dict()))
    return model, plain


def gradients(net: nn.Module, clips: Tensor) -> dict[str, Tensor]:
    """Return the gradients of a weighted sum of the logits, by our parameter names."""
    net.zero_grad()
    logits = net(clips)
    factors = torch.linspace(-1, 1, logits.numel(), dtype=logits.dtype).view_as(logits)
    (logits * factors).sum().backward()
    found = {name: p.grad for name, p in net.named_parameters()}
    return convert_state_dict(found) if isinstance(net, PlainP3D) else found


def assert_same_gradients(model: P3D, plain: PlainP3D, clips: Tensor, tolerance: float) -> None:
    ours, theirs = gradients(model, clips), gradients(plain, clips)
    assert ours.keys() == theirs.keys()
    for name, gradient in theirs.items():
        assert gradient.abs().max() > 0 or ".temporal." in name, name
        torch.testing.assert_close(
            ours[name], gradient, rtol=tolerance, atol=tolerance * float(gradient.abs().max())
        )


@few_channels
@pytest.mark.parametrize("wiring", WIRINGS)
@pytest.mark.parametrize(
    ("name", "variant"),
    [*(("p3d63", variant) for variant in VARIANTS), ("p3d131", "ABC"), ("p3d199", "ABC")],
)
def test_equals_the_plain_network(name: str, variant: str, wiring: str) -> None:
    model, plain = make_pair(wiring, variant, name=name)
    for frames, (height, width) in SHAPES.items():
        clips = torch.randn(1, 3, frames, height, width, dtype=torch.float64)
        with torch.inference_mode():
            expected = plain(clips)
            for model.skips_unread in (False, True):
                torch.testing.assert_close(model(clips), expected, rtol=1e-10, atol=1e-10)


@few_channels
@pytest.mark.parametrize("wiring", WIRINGS)
@pytest.mark.parametrize("variant", VARIANTS)
@pytest.mark.parametrize(("frames", "skips"), [(5, False), (16, True)])
def test_gradients_equal_the_plain_networks(
    wiring: str, variant: str, frames: int, skips: bool
) -> None:
    model, plain = make_pair(wiring, variant)
    model.skips_unread = skips
    clips = torch.randn(1, 3, frames, 24, 21, dtype=torch.float64)
    assert_same_gradients(model, plain, clips, 1e-8)


@few_channels
@pytest.mark.parametrize("wiring", WIRINGS)
def test_equals_the_plain_network_in_training_mode(wiring: str) -> None:
    model, plain = make_pair(wiring, "ABC")
    model.skips_unread = True  # which leaves the statistics those of all pixels
    clips = torch.randn(3, 3, 4, 56, 56, dtype=torch.float64)
    torch.testing.assert_close(model.train()(clips), plain.train()(clips), rtol=1e-8, atol=1e-8)
    running = convert_state_dict(plain.state_dict())
    for name, tensor in model.state_dict().items():
        torch.testing.assert_close(tensor, running[name], rtol=1e-8, atol=1e-8, msg=name)


@pytest.mark.parametrize("wiring", WIRINGS)
def test_gradients_equal_the_plain_networks_in_training_mode(wiring: str) -> None:
    model, plain = make_pair(wiring, "ABC")
    model.skips_unread = True
    clips = torch.randn(2, 3, 4, 64, 64, dtype=torch.float64)
    assert_same_gradients(model.train(), plain.train(), clips, 1e-6)


@pytest.mark.parametrize("wiring", WIRINGS)
def test_flow_networks_take_two_channels(wiring: str) -> None:
    model, plain = make_pair(wiring, "ABC", modality="flow")
    clips = torch.randn(1, 2, 16, 32, 32, dtype=torch.float64)
    torch.testing.assert_close(model(clips), plain(clips), rtol=1e-10, atol=1e-10)


class CopyCounter(TorchDispatchMode):
    """Counts calls of operators that only copy a tensor's elements."""

    COPIES = ("clone", "copy_", "_to_copy", "contiguous", "_reshape_copy")

    def __init__(self) -> None:
        super().__init__()
        self.calls: Counter[str] = Counter()

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        if func._schema.name.removeprefix("aten::") in self.COPIES:
            self.calls[str(func)] += 1
        return func(*args, **(kwargs or {}))


@few_channels
@pytest.mark.parametrize("wiring", WIRINGS)
@pytest.mark.parametrize("frames", [1, 5, 16])
@pytest.mark.parametrize("training", [False, True])
def test_makes_no_copies(wiring: str, frames: int, training: bool) -> None:
    model = create_model("p3d63", num_classes=3, wiring=wiring).train(training)
    not_channels_last: list[str] = []

    def check(module: nn.Module, inputs: tuple[Tensor, ...], output: Tensor) -> None:
        for tensor in (inputs[0], output):
            if not tensor.is_contiguous(memory_format=torch.channels_last):
                not_channels_last.append(f"{module}: {tuple(tensor.shape)} {tensor.stride()}")

    for module in model.modules():
        if isinstance(module, nn.Conv2d | nn.BatchNorm2d):
            module.register_forward_hook(check)
    clips = torch.randn(2, frames, 48, 40, 3).permute(0, 4, 1, 2, 3)
    with torch.set_grad_enabled(training), CopyCounter() as counter:
        model(clips)
    assert not not_channels_last
    # Between stages, every second pixel is collected.
    assert counter.calls == {"aten.clone.default": 3}


@few_channels
def test_takes_any_memory_format() -> None:
    model = create_model("p3d63", num_classes=3).eval()
    clips = torch.randn(1, 8, 32, 32, 3).permute(0, 4, 1, 2, 3)
    torch.testing.assert_close(model(clips.contiguous()), model(clips))


def test_kinds_of_block_alternate_over_the_whole_network() -> None:
    with torch.device("meta"):
        model = create_model("p3d199", num_classes=2)
    names = [
        block.mix.__name__
        for stage in (model.res2, model.res3, model.res4, model.res5)
        for block in stage
    ]
    mixed = [("_mix_a", "_mix_b_author", "_mix_c_author")[i % 3] for i in range(47)]
    assert names == mixed + ["_mix_2d"] * 3


def test_initializes_with_he_variances() -> None:
    torch.manual_seed(0)
    model = create_model("p3d63", num_classes=10)
    for name, module in model.named_modules():
        if isinstance(module, nn.Conv2d):
            fan_out = module.weight[:, 0].numel()
            assert module.weight.var().item() == pytest.approx(2 / fan_out, rel=0.15), name
    assert model.fc.weight.std().item() == pytest.approx(0.01, rel=0.05)


@few_channels
def test_zero_init_makes_each_block_its_shortcut() -> None:
    model = create_model("p3d63", num_classes=2).eval()
    zero_init_residuals(model)
    block = model.res2[1]
    assert isinstance(block, Bottleneck)
    x = torch.rand(4, block.expand.conv.out_channels, 6, 6)
    torch.testing.assert_close(block(x, 2), x)


@few_channels
def test_folding_the_norms_keeps_the_logits() -> None:
    model, _ = make_pair("author", "ABC")
    clips = torch.randn(1, 3, 16, 32, 32, dtype=torch.float64)
    expected = model(clips)
    folded = fold_norms(model)
    assert not any(isinstance(m, nn.BatchNorm2d) for m in folded.modules())
    assert all(isinstance(m.bn, nn.Identity) for m in folded.modules() if isinstance(m, ConvBN))
    torch.testing.assert_close(folded(clips), expected, rtol=1e-10, atol=1e-10)


@few_channels
@pytest.mark.parametrize("wiring", WIRINGS)
@pytest.mark.parametrize("variant", VARIANTS)
def test_a_folded_network_skips_pixels_that_nobody_reads(wiring: str, variant: str) -> None:
    model, _ = make_pair(wiring, variant)
    folded = fold_norms(model)
    sizes = dict[str, list[int]]()
    for name, module in folded.named_modules():
        if isinstance(module, Bottleneck):
            module.register_forward_hook(
                lambda _, __, out, name=name: sizes.setdefault(name[:4], []).append(out.shape[-1])
            )
    with torch.no_grad():
        folded(torch.randn(1, 3, 16, 100, 100, dtype=torch.float64))
    assert sizes["res2"] == [25, 25, 13]
    assert sizes["res3"] == [13, 13, 13, 7]
    assert sizes["res4"] == [7, 7, 7, 7, 7, 4]
    assert sizes["res5"] == [4, 4, 4]


@few_channels
def test_frozen_norms_stay_frozen_in_training() -> None:
    model = create_model("p3d63", num_classes=2)
    model.frozen_norms = (model.res2[0].reduce.bn,)
    model.train()
    model(torch.randn(2, 3, 4, 16, 16))
    assert model.res2[0].reduce.bn.num_batches_tracked == 0
    assert model.stem.bn.num_batches_tracked == 1


@pytest.mark.usefixtures("few_blocks")
def test_exports_without_a_graph_break() -> None:
    model = create_model("p3d63", num_classes=4).eval()
    clips = torch.randn(2, 3, 16, 32, 32)
    program = torch.export.export(model, (clips,))
    torch.testing.assert_close(program.module()(clips), model(clips), rtol=1e-4, atol=1e-5)


@pytest.mark.usefixtures("few_blocks")
@pytest.mark.parametrize("training", [False, True])
def test_compiles_without_a_graph_break(training: bool) -> None:
    # One graph for the whole forward pass; the backend compilers have their own tests.
    torch._dynamo.reset()
    # In float64, since normalizing two values, as in res5 here, magnifies rounding errors.
    model = create_model("p3d63", num_classes=4, dropout=0.0).double().train(training)
    clips = torch.randn(2, 3, 4, 32, 32, dtype=torch.float64)
    compiled = torch.compile(model, backend="aot_eager", fullgraph=True)  # a break is an error
    with torch.set_grad_enabled(training):
        torch.testing.assert_close(compiled(clips), model(clips), rtol=1e-4, atol=1e-4)


@few_channels
@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"name": "p3d50"}, "no network is called 'p3d50'; choose one of: p3d63, p3d131, p3d199"),
        ({"wiring": "caffe"}, "no wiring is called 'caffe'"),
        ({"variant": "AB"}, "no variant is called 'AB'"),
        ({"modality": "depth"}, "no modality is called 'depth'"),
        ({"num_classes": 0}, "num_classes is 0"),
        ({"dropout": 1.0}, "dropout is 1.0"),
    ],
)
def test_rejects_invalid_arguments(arguments: dict, message: str) -> None:
    with pytest.raises(UserError, match=message):
        create_model(**{"name": "p3d63", "num_classes": 2, **arguments})


@few_channels
@pytest.mark.parametrize(
    ("shape", "message"),
    [
        ((1, 3, 16, 2, 40), "are too small for the network.s strides"),
        ((1, 2, 16, 32, 32), r"takes clips \(N, 3, T, H, W\)"),
        ((3, 16, 32, 32), r"takes clips \(N, 3, T, H, W\)"),
    ],
)
def test_rejects_unusable_clips(shape: tuple[int, ...], message: str) -> None:
    with pytest.raises(UserError, match=message):
        create_model("p3d63", num_classes=2)(torch.zeros(shape))


@few_channels
def test_rejects_pixels_and_layers_that_do_not_exist() -> None:
    model = create_model("p3d63", num_classes=2)
    with pytest.raises(UserError, match=r"of type torch.uint8; normalize them first"):
        model(torch.zeros(1, 3, 4, 8, 8, dtype=torch.uint8))
    with pytest.raises(UserError, match="no layer is called 'res9'; choose one of: res2, res3"):
        model.features(torch.zeros(1, 3, 4, 8, 8), "res9")


@pytest.mark.parametrize("name", ["p3d63", "p3d199"])
def test_skipping_unread_pixels_saves_multiplications(name: str) -> None:
    with torch.device("meta"):
        model, clips = create_model(name, num_classes=101).eval(), torch.zeros(1, 3, 16, 160, 160)
    counts = list[int]()
    for model.skips_unread in (False, True):
        with torch.no_grad(), FlopCounterMode(display=False) as counter:
            model(clips)
        counts.append(counter.get_total_flops())
    saved = 1 - counts[1] / counts[0]
    assert saved == pytest.approx({"p3d63": 0.130, "p3d199": 0.060}[name], abs=5e-4)


@few_channels
@pytest.mark.parametrize("wiring", WIRINGS)
def test_takes_the_smallest_clip(wiring: str) -> None:
    model = create_model("p3d63", num_classes=2, wiring=wiring).eval()
    assert model(torch.zeros(1, 3, 1, 3, 3)).shape == (1, 2)


@few_channels
@pytest.mark.parametrize("wiring", WIRINGS)
@pytest.mark.parametrize("layer", ["res2", "res3", "res4", "res5"])
def test_features_of_a_stage_are_those_of_its_last_plain_block(wiring: str, layer: str) -> None:
    model, plain = make_pair(wiring, "ABC")
    clips = torch.randn(2, 3, 16, 33, 40, dtype=torch.float64)
    model.skips_unread = True
    outputs: list[Tensor] = []
    stage = getattr(plain, f"layer{int(layer[-1]) - 1}")
    stage[-1].register_forward_hook(lambda *results: outputs.append(results[2]))
    with torch.inference_mode():
        plain(clips)
        features = model.features(clips, layer)
    (expected,) = outputs
    if expected.dim() == 4:  # the plain res5 is two-dimensional
        expected = expected.unflatten(0, (2, -1)).transpose(1, 2)
    assert features.shape == expected.shape
    torch.testing.assert_close(features, expected, rtol=1e-10, atol=1e-10)


@few_channels
def test_pooled_features_are_the_mean_of_the_last_stage() -> None:
    model, _ = make_pair("author", "ABC")
    clips = torch.randn(2, 3, 32, 40, 40, dtype=torch.float64)
    with torch.no_grad():
        pooled, last = model.features(clips), model.features(clips, "res5")
        torch.testing.assert_close(pooled, last.mean((2, 3, 4)))
        torch.testing.assert_close(model(clips), model.fc(pooled))


@pytest.mark.usefixtures("few_blocks")
@pytest.mark.filterwarnings("ignore::torch.jit.TracerWarning")
@pytest.mark.filterwarnings("ignore:`torch.jit.trace:DeprecationWarning")
def test_traces_under_gradients() -> None:
    model = create_model("p3d63", num_classes=2).eval()
    traced = torch.jit.trace(model, torch.rand(1, 3, 4, 16, 16))
    clips = torch.rand(2, 3, 4, 16, 16, requires_grad=True)
    with torch.jit.optimized_execution(False):  # which takes seconds
        logits = [network(clips) for network in (traced, model)]
    torch.testing.assert_close(*logits)
    gradients = [torch.autograd.grad(output.sum(), clips)[0] for output in logits]
    torch.testing.assert_close(*gradients)
