"""`p3d info`, against published sizes and costs."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import pytest

from p3d.errors import UserError
from p3d.model.network import create_model
from p3d.weights.info import InfoOptions, gather, run
from p3d.weights.loading import load_model
from p3d.weights.metadata import save_model


@pytest.mark.parametrize(
    ("name", "classes", "modality", "parameters", "gmacs"),
    [
        ("p3d63", 101, "rgb", 25_132_581, 8.44),
        ("p3d131", 101, "rgb", 47_475_749, 12.90),
        ("p3d199", 101, "rgb", 65_879_589, 18.40),
        ("p3d199", 400, "rgb", 66_492_240, 18.40),
        ("p3d199", 400, "flow", 66_489_104, 18.08),
    ],
)
def test_networks_have_the_published_parameters_and_the_known_costs(
    name: str, classes: int, modality: str, parameters: int, gmacs: float
) -> None:
    info = gather(InfoOptions(name, num_classes=classes, modality=modality))  # type: ignore[arg-type]
    assert info.parameters == parameters
    assert info.file_bytes >= 4 * parameters
    assert round(info.macs / 1e9, 2) == gmacs
    assert (info.frames, info.size) == (16, 160)


def test_the_stages_are_the_papers() -> None:
    info = gather(InfoOptions("p3d63"))
    assert {part.name: part.output for part in info.stages} == {
        "stem": (64, 8, 40, 40),
        "res2": (256, 8, 40, 40),
        "res3": (512, 4, 20, 20),
        "res4": (1024, 2, 10, 10),
        "res5": (2048, 1, 5, 5),
        "fc": (101,),
    }
    assert info.stages[0].macs == 64 * 3 * 49 * 16 * 80 * 80
    assert info.stages[-1].macs == 2048 * 101


def test_costs_depend_on_the_clip() -> None:
    small = gather(InfoOptions("p3d63", size=80, frames=8))
    assert small.macs < gather(InfoOptions("p3d63")).macs / 7


@pytest.mark.usefixtures("few_channels")
def test_describes_a_file(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    model = create_model("p3d63", num_classes=2, variant="2d")
    model.trained_on = frozenset({b"01234", b"abcde", b"ABCDE"})
    path = tmp_path / "m.safetensors"
    save_model(model, path, class_names=["yes", "no"], source="a test", recipe={"epochs": 1})
    run(InfoOptions(str(path)))
    text = capsys.readouterr().out
    for expected in ("p3d63, author wiring, 2d, rgb", "yes, no", "a test", '{"epochs": 1}', "res5"):
        assert expected in text
    assert "trained on  3 videos\n" in text
    run(InfoOptions(str(path), json=True))
    printed = json.loads(capsys.readouterr().out)
    assert printed["file_bytes"] == path.stat().st_size
    assert printed["trained_on"] == 3
    assert printed["parameters"] == sum(p.numel() for p in model.parameters())


@pytest.mark.usefixtures("few_channels")
def test_a_short_side_travels_with_the_weights(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    model = create_model("p3d63", num_classes=2)
    model.preprocessing = replace(model.preprocessing, resize=162)
    path = tmp_path / "m.safetensors"
    save_model(model, path)
    assert load_model(path).preprocessing == model.preprocessing
    run(InfoOptions(str(path)))
    assert "stride 1, resized to a short side of 162, crop 160" in capsys.readouterr().out


@pytest.mark.usefixtures("few_channels")
def test_text_from_a_file_is_printable(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path = tmp_path / "m.safetensors"
    names = ["up\x1b[2J", "down\u202e"]
    save_model(create_model("p3d63", num_classes=2), path, class_names=names, source="a\nb")
    run(InfoOptions(str(path)))
    lines = capsys.readouterr().out.splitlines()
    assert r"names       up\x1b[2J, down\u202e" in lines
    assert r"source      a\nb" in lines
    run(InfoOptions(str(path), json=True))
    assert json.loads(capsys.readouterr().out)["class_names"] == names


def test_rejects_unknown_networks_and_empty_clips() -> None:
    with pytest.raises(UserError, match="p3d64: neither a network"):
        gather(InfoOptions("p3d64"))
    with pytest.raises(UserError, match="16 frames of 0x0 px is empty"):
        gather(InfoOptions("p3d63", size=0))
