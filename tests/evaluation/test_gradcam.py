"""Grad-CAM against a computation of its own on the plain Conv3d network, and against captum."""

from __future__ import annotations

from itertools import product
from typing import get_args

import numpy as np
import pytest
import torch
from torch import Tensor

from p3d.evaluation.gradcam import CamLayer, grad_cam, stretch
from p3d.model.config import P3DConfig, Wiring
from p3d.model.network import P3D
from p3d.model.plain import PlainP3D, plain_twin
from p3d.weights.loading import convert_state_dict

CLASSES = 5


def networks(wiring: Wiring) -> tuple[P3D, PlainP3D]:
    """Return a network and its plain twin, in float64."""
    config = P3DConfig("p3d63", CLASSES, wiring=wiring)
    twin = plain_twin(config)
    model = P3D(config)
    model.load_state_dict(convert_state_dict(twin.state_dict()))
    return model.double().eval(), twin.double().eval()


@pytest.fixture(scope="module", params=get_args(Wiring))
def pair(request: pytest.FixtureRequest) -> tuple[P3D, PlainP3D]:
    return networks(request.param)


@pytest.fixture(scope="module")
def clips() -> Tensor:
    generator = torch.Generator().manual_seed(0)
    return torch.randn(2, 3, 16, 32, 40, generator=generator, dtype=torch.float64)


def expected_maps(twin: PlainP3D, clips: Tensor, target: int) -> dict[CamLayer, Tensor]:
    """Compute Grad-CAM by its definition, one channel after the other."""
    volumes: dict[CamLayer, Tensor] = {}

    def keep(layer: CamLayer, volume: Tensor) -> None:
        volume.retain_grad()
        volumes[layer] = volume

    handles = [
        getattr(twin, f"layer{int(layer[3:]) - 1}")[-1].register_forward_hook(
            lambda _module, _inputs, output, layer=layer: keep(layer, output)
        )
        for layer in get_args(CamLayer)
    ]
    twin(clips)[:, target].sum().backward()
    for handle in handles:
        handle.remove()
    maps = {}
    for layer, volume in volumes.items():
        assert volume.grad is not None
        values, slopes = volume.detach().numpy(), volume.grad.numpy()
        found = np.zeros((len(values), *values.shape[2:]))
        for clip, channel in product(range(len(values)), range(values.shape[1])):
            found[clip] += slopes[clip, channel].mean() * values[clip, channel]
        maps[layer] = torch.from_numpy(found.clip(0))
    return maps


def test_maps_are_those_of_the_definition(pair: tuple[P3D, PlainP3D], clips: Tensor) -> None:
    model, twin = pair
    shapes = {"res2": (8, 8, 10), "res3": (4, 4, 5), "res4": (2, 2, 3), "res5": (1, 1, 2)}
    for layer, expected in expected_maps(twin, clips, 3).items():
        logits, maps = grad_cam(model, clips, 3, layer)
        torch.testing.assert_close(logits, model(clips).detach())
        assert maps.shape == (2, *shapes[layer])
        assert expected.any()
        torch.testing.assert_close(maps, expected, rtol=1e-9, atol=1e-12)


def test_maps_equal_those_of_captum(pair: tuple[P3D, PlainP3D], clips: Tensor) -> None:
    attr = pytest.importorskip("captum.attr", reason="captum is not installed")
    model, twin = pair
    for number, layer in ((3, "res4"), (4, "res5")):
        cam = attr.LayerGradCam(twin, getattr(twin, f"layer{number}")[-1])
        expected = cam.attribute(clips, target=1, relu_attributions=True)[:, 0].detach()
        torch.testing.assert_close(grad_cam(model, clips, 1, layer)[1], expected)


def test_without_a_target_each_clip_shows_its_best_class(
    pair: tuple[P3D, PlainP3D], clips: Tensor
) -> None:
    model, _ = pair
    logits, maps = grad_cam(model, clips, None, "res4")
    for number, best in enumerate(logits.argmax(1).tolist()):
        _, expected = grad_cam(model, clips[number : number + 1], best, "res4")
        torch.testing.assert_close(maps[number : number + 1], expected)


def test_a_network_without_gradients_stays_as_it_is(clips: Tensor) -> None:
    model, _ = networks("author")
    model.requires_grad_(False)
    before = {name: tensor.clone() for name, tensor in model.state_dict().items()}
    with torch.no_grad():
        _, maps = grad_cam(model, clips, 0, "res4")
    assert maps.any()
    assert not model.res4[-1]._forward_hooks
    assert all(parameter.grad is None for parameter in model.parameters())
    assert all(torch.equal(tensor, before[name]) for name, tensor in model.state_dict().items())


def test_stretched_maps_fill_their_clips() -> None:
    maps = torch.tensor(
        [[[[0.0, 1.0], [2.0, 3.0]], [[4.0, 4.0], [4.0, 4.0]]], [[[0.0] * 2] * 2] * 2]
    )
    heat = stretch(maps, 8, 10, 12)
    assert heat.shape == (2, 8, 10, 12)
    assert (heat.min(), heat.max()) == (0, 1)
    assert not heat[1].any()
    torch.testing.assert_close(heat[0, 0, [0, 0, -1, -1], [0, -1, 0, -1]], torch.arange(4) / 4)
    assert (heat[0, -1] == 1).all()
