"""P3D-199 against the graph that the paper's authors released, interpreted in float64."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from helpers.weight_files import authors_table, interpret, random_blobs, write_caffemodel
from p3d.model.network import P3D
from p3d.weights.loading import load_model
from p3d.weights.port import to_port

CLASSES = 7
# Our stages and the layers of the graph with the same output.
STAGES = {"stem": "pool1", "res2": "res2c_relu", "res3": "res3b7_relu", "res4": "res4b35_relu"}


def stage_outputs(model: P3D, clip: Tensor) -> dict[str, Tensor]:
    """Return the outputs of stem and stages as `(N, C, T, H, W)`, and the logits."""
    outputs: dict[str, Tensor] = {}

    def keep(name: str):
        def hook(_module: nn.Module, _inputs: object, output: object) -> None:
            x = output[0] if isinstance(output, tuple) else output
            outputs[name] = x.unflatten(0, (len(clip), -1)).transpose(1, 2).clone()

        return hook

    parts = {"stem": model.stem} | {f"res{i}": getattr(model, f"res{i}")[-1] for i in (2, 3, 4, 5)}
    for name, part in parts.items():
        part.register_forward_hook(keep(name))
    with torch.no_grad():
        outputs["logits"] = model(clip)
    return outputs


def relative_error(ours: Tensor, theirs: Tensor) -> float:
    assert ours.shape == theirs.shape
    return float((ours - theirs).abs().max() / theirs.abs().max())


Blobs = dict[str, list[Tensor]]
Table = list[list[Any]]


def write(path: Path, table: Table, channels: int) -> Blobs:
    blobs = random_blobs(table, channels=channels, classes=CLASSES)
    write_caffemodel(path, table, blobs)
    return blobs


def narrow_table() -> Table:
    """Return the graph for `few_channels`."""
    table = authors_table()
    for op, _name, _bottoms, _top, sizes in table:
        if op == "conv":
            sizes["out"] //= 8
    return table


def test_every_stage_equals_the_authors_graph(tmp_path: Path) -> None:
    check_stages(tmp_path / "p3d.caffemodel", authors_table(), "rgb", (3, 16, 64, 64))


@pytest.mark.usefixtures("few_channels")
@pytest.mark.parametrize(
    ("modality", "shape"), [("rgb", (3, 16, 33, 60)), ("flow", (2, 16, 52, 44))]
)
def test_every_stage_of_a_narrow_network_equals_the_authors_graph(
    modality: str, shape: tuple[int, ...], tmp_path: Path
) -> None:
    check_stages(tmp_path / "p3d.caffemodel", narrow_table(), modality, shape)


def check_stages(path: Path, table: Table, modality: str, shape: tuple[int, ...]) -> None:
    blobs = write(path, table, shape[0])
    clip = torch.randn(1, *shape, dtype=torch.float64)

    theirs = interpret(table, blobs, clip)
    model = load_model(path)
    ours = stage_outputs(model.double(), clip)

    assert model.config.modality == modality
    assert model.config.wiring == "author"
    for stage, layer in STAGES.items():
        assert relative_error(ours[stage], theirs[layer]) < 1e-9, stage
    assert relative_error(ours["res5"].squeeze(2), theirs["res5c_relu"]) < 1e-9
    assert relative_error(ours["logits"], theirs["fc_kinetics"]) < 1e-9


@pytest.mark.usefixtures("few_channels")
def test_caffe_and_port_files_of_the_same_weights_give_the_same_network(tmp_path: Path) -> None:
    write(tmp_path / "p3d.caffemodel", narrow_table(), 3)
    from_caffe = load_model(tmp_path / "p3d.caffemodel")
    port = {f"module.{k}": v for k, v in to_port(from_caffe.state_dict()).items()}
    torch.save({"state_dict": port, "epoch": 1, "best_prec1": 0.5}, tmp_path / "p3d.pth.tar")

    from_port = load_model(tmp_path / "p3d.pth.tar", wiring="author", preprocessing="authors")

    assert from_port.config == from_caffe.config
    assert from_port.preprocessing == from_caffe.preprocessing
    clip = torch.randn(1, 3, 16, 48, 48)
    with torch.no_grad():
        assert torch.equal(from_port(clip), from_caffe(clip))
