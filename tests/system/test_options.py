"""Options as plain values."""

from __future__ import annotations

import json
from pathlib import Path

from p3d.data.layouts import DataOptions
from p3d.evaluation.options import EvalOptions
from p3d.inference.predict import PredictOptions
from p3d.system.files import write_json
from p3d.system.options import DeviceOptions, plain_options


def test_device_options_are_at_the_top_level() -> None:
    options = PredictOptions(
        videos=("a.avi",),
        weights=Path("best.safetensors"),
        compute=DeviceOptions("cpu", "bf16", compile=True),
    )
    assert plain_options(options) == {
        "videos": ("a.avi",),
        "weights": Path("best.safetensors"),
        "fusion": None,
        "top": None,
        "threshold": 0.0,
        "out": None,
        "json": False,
        "clips": 20,
        "batch_size": None,
        "backend": "auto",
        "workers": None,
        "frame_rate": None,
        "device": "cpu",
        "precision": "bf16",
        "compile": True,
        "threads": None,
    }


def test_other_groups_of_options_stay_groups(tmp_path: Path) -> None:
    options = EvalOptions(DataOptions(Path("set"), fold=2), Path("best.safetensors"))
    values = plain_options(options)
    assert values["data"]["data"] == Path("set")
    assert values["data"]["fold"] == 2
    assert (values["device"], values["precision"], values["compile"]) == ("auto", "fp32", False)
    assert "compute" not in values
    write_json(tmp_path / "options.json", values)
    written = json.loads((tmp_path / "options.json").read_text())
    assert written.keys() == values.keys()
    assert written["data"]["data"] == "set"
