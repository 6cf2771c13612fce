"""Files appear whole, readable to those who may, and leave nothing behind."""

from __future__ import annotations

import os
import stat
import subprocess
import sys
from pathlib import Path

import pytest
import torch

from p3d.model.network import create_model
from p3d.system.files import replacing
from p3d.weights.metadata import save_model


def names(folder: Path) -> list[str]:
    return [path.name for path in folder.iterdir()]


def test_the_file_appears_at_the_end(tmp_path: Path) -> None:
    path = tmp_path / "figures.json"
    path.write_text("old")
    with replacing(path) as temporary:
        temporary.write_text("new")
        assert path.read_text() == "old"
    assert path.read_text() == "new"
    assert names(tmp_path) == ["figures.json"]


def write_half(path: Path) -> None:
    with replacing(path) as temporary:
        temporary.write_text("half of the new")
        raise OSError("the disk is full")


def test_a_block_that_fails_leaves_the_old_file(tmp_path: Path) -> None:
    path = tmp_path / "figures.json"
    path.write_text("old")
    with pytest.raises(OSError, match="the disk is full"):
        write_half(path)
    assert path.read_text() == "old"
    assert names(tmp_path) == ["figures.json"]


def test_a_killed_write_is_taken_over_by_the_next(tmp_path: Path) -> None:
    path = tmp_path / "last.pt"
    script = (
        "import os, signal; from pathlib import Path; from p3d.system.files import replacing\n"
        f"with replacing(Path({str(path)!r})) as temporary:\n"
        "    temporary.write_text('half')\n"
        "    os.kill(os.getpid(), signal.SIGKILL)\n"
    )
    for _ in range(2):
        subprocess.run([sys.executable, "-c", script], check=False)
        assert len(names(tmp_path)) == 1
    assert not path.exists()
    with replacing(path) as temporary:
        assert temporary.read_text() == ""
        temporary.write_text("whole")
    assert names(tmp_path) == ["last.pt"]
    assert path.read_text() == "whole"


@pytest.mark.skipif(os.name == "nt", reason="permissions are Unix's")
@pytest.mark.parametrize("umask", [0o022, 0o027])
def test_saved_weights_have_the_permissions_of_any_new_file(tmp_path: Path, umask: int) -> None:
    model = create_model("p3d63", num_classes=2)
    before = os.umask(umask)
    try:
        save_model(model, tmp_path / "m.safetensors")
        with replacing(tmp_path / "last.pt") as temporary:
            torch.save({"step": 1}, temporary)
    finally:
        os.umask(before)
    for path in tmp_path.iterdir():
        assert stat.S_IMODE(path.stat().st_mode) == 0o666 & ~umask
