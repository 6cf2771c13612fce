"""The end-to-end benchmark compares methods that give the same answers."""

from __future__ import annotations

from dataclasses import replace
from functools import partial
from pathlib import Path

import end_to_end
import pytest
import torch

from helpers.videos import write_video
from p3d.bench.backends import matrix_rate
from p3d.model.network import P3D
from p3d.preprocessing import IMAGENET
from p3d.weights.metadata import save_model


@pytest.mark.usefixtures("narrow_networks")
def test_all_methods_give_the_same_answers(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(torch, "compile", lambda function, **_: function)  # takes long
    monkeypatch.setattr(end_to_end, "matrix_rate", partial(matrix_rate, side=64))
    model, _ = end_to_end.networks(None, "p3d63")
    assert isinstance(model, P3D)
    model.preprocessing = replace(IMAGENET, num_frames=4, resize=(18, 24), crop=16)
    model.fc.bias.data = torch.linspace(0, 90, 101)  # clear answers
    model.class_names = tuple(f"c{number}" for number in range(101))
    save_model(model, tmp_path / "net.safetensors")
    for folder in ("c100", "c7"):
        (tmp_path / folder).mkdir()
        write_video(tmp_path / folder / "video.avi", 12)
    flags = ("--clips", "2", "--rounds", "1", "--precision", "fp32")
    weights = str(tmp_path / "net.safetensors")
    end_to_end.main(["--data", str(tmp_path), "--weights", weights, *flags])
    lines = capsys.readouterr().out.splitlines()
    assert [line for line in lines if line.startswith("matrix rate fp32: ")]
    rows = [line for line in lines if line.startswith(("naive", "p3d, "))]
    assert len(rows) == 5
    # The same answer for both videos, c100, which is right for one of them.
    assert all(row.split()[-2:] == ["2/2", "1/2"] for row in rows), rows
    assert [row.split()[-3] for row in rows[:3]] == ["2.0"] * 3  # "auto" follows
