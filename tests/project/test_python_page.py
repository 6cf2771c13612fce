"""The examples of docs/python.md, run from top to bottom."""

from __future__ import annotations

import re
import shutil
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

import p3d

PAGE = Path(__file__).parents[2] / "docs" / "python.md"


def test_examples_of_the_python_page_run(
    sample: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    videos = p3d.read_dataset(sample, "test")
    model = p3d.create_model("p3d63", num_classes=len(videos.class_names))
    model.preprocessing = replace(model.preprocessing, num_frames=8, resize=(72, 96), crop=64)
    p3d.save_model(model, tmp_path / "best.safetensors", class_names=videos.class_names)
    for split in ("train", "test"):
        for record in p3d.read_dataset(sample, split).records[:4]:  # type: ignore[arg-type]
            name = videos.class_names[record.label]
            folder = tmp_path / "videos" / split / name
            folder.mkdir(parents=True, exist_ok=True)
            shutil.copy(record.path, folder)
    shutil.copy(record.path, tmp_path / "walk.avi")
    monkeypatch.chdir(tmp_path)

    names: dict[str, Any] = {}
    blocks = re.findall(r"```python\n(.*?)```", PAGE.read_text(encoding="utf-8"), re.DOTALL)
    for block in blocks:
        exec(compile(block, str(PAGE), "exec"), names)
    assert capsys.readouterr().out == "absent.avi no such file or folder\n"
    assert [prediction.num_frames for prediction in names["both"]][1] == 40
    assert names["vectors"].shape == (2, 2048)
    assert names["scores"].shape[1] == p3d.load_model("mine.safetensors").config.num_classes
    assert p3d.load_model("three.safetensors").class_names == ("a", "b", "c")
