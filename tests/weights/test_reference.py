"""Reference logits from an independent implementation, in the folder P3D_REFERENCE."""

from __future__ import annotations

import json
import os
import zlib
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

from p3d.model.network import create_model
from p3d.weights.caffe import our_layer
from p3d.weights.loading import convert_state_dict, load_model
from p3d.weights.metadata import save_model
from p3d.weights.port import to_port

FOLDER = Path(os.environ.get("P3D_REFERENCE", ""))
pytestmark = pytest.mark.skipif(
    "P3D_REFERENCE" not in os.environ, reason="P3D_REFERENCE (a folder of fixtures) is not set"
)


def fixture_value(key: str, shape: tuple[int, ...]) -> Tensor:
    """Return a tensor of the port by the fixtures' formula, which depends on its name and shape."""
    x = np.random.RandomState(zlib.crc32(key.encode())).standard_normal(shape).astype(np.float32)
    if key.endswith("running_var"):
        x = 1 + 0.2 * np.abs(x)
    elif key.endswith(("running_mean", "bias")):
        x = 0.1 * x
    elif len(shape) == 1:
        x = (0.3 if ".bn4." in key or "downsample.1" in key else 1.0) * (1 + 0.1 * x)
    elif len(shape) == 2:
        x = x / np.sqrt(shape[1])
    else:
        x = x * np.sqrt(2 / np.prod(shape[1:]))
    return torch.from_numpy(np.asarray(x, np.float32))


def port_state(fixture: dict[str, Any]) -> dict[str, Tensor]:
    with torch.device("meta"):
        model = create_model(
            fixture["arch"].lower(),
            num_classes=fixture["num_classes"],
            modality=fixture["modality"].lower(),
        )
    shapes = {
        key: tuple(value.shape)
        for key, value in to_port(model.state_dict()).items()
        if "num_batches" not in key
    }
    if "state_dict" in fixture:
        assert {key: list(shape) for key, shape in shapes.items()} == fixture["state_dict"]
    return {key: fixture_value(key, shape) for key, shape in shapes.items()}


@pytest.mark.parametrize("name", ["parity_port_p3d63.json", "parity_author_p3d199_kinetics.json"])
def test_logits_agree_through_every_format(name: str, tmp_path: Path) -> None:
    fixture = json.loads((FOLDER / name).read_text())
    state = port_state(fixture)
    torch.save({"state_dict": {f"module.{k}": v for k, v in state.items()}}, tmp_path / "x.pth.tar")
    from_port = load_model(tmp_path / "x.pth.tar", wiring=fixture["wiring"])
    save_model(from_port, tmp_path / "x.safetensors")
    clip = np.random.RandomState(fixture["input_seed"]).standard_normal(fixture["input_shape"])
    expected = torch.tensor(fixture["logits"])
    for model in (from_port, load_model(tmp_path / "x.safetensors")):
        with torch.no_grad():
            logits = model(torch.from_numpy(clip.astype(np.float32)))
        error = float((logits - expected).abs().max() / expected.abs().max())
        assert error < 1e-5


def test_caffe_layers_map_to_the_ports_modules() -> None:
    table = json.loads((FOLDER / "caffe_layer_to_port_prefix.json").read_text())
    with torch.device("meta"):
        model = create_model("p3d199", num_classes=400)
    ours = convert_state_dict(to_port(model.state_dict()))
    ported = dict(zip(to_port(ours), ours, strict=True))
    assert len(table) == 404
    for layer, prefix in table.items():
        assert ported[f"{prefix}.weight"] == f"{our_layer(layer)}.weight"
