"""A full disk and replaced weights end an archive's command in one line, and nothing is lost."""

from __future__ import annotations

import os
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from helpers.disk import no_file_above
from helpers.processes import archive_workers
from helpers.videos import write_video
from p3d.archive.parts import part_files, read_part, write_part
from p3d.archive.results import PARTS
from p3d.cli import main
from p3d.errors import UserError
from p3d.inference.feature_folder import FeatureFolder
from p3d.model.network import create_model
from p3d.preprocessing import IMAGENET
from p3d.weights.metadata import save_model

pytestmark = pytest.mark.usefixtures("narrow_networks")

resource = pytest.importorskip("resource", reason="needs limits of files, which Windows lacks")


@pytest.fixture(scope="module")
def root(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return a folder with eight videos, weights, and the same weights of another source."""
    root = tmp_path_factory.mktemp("archive")
    torch.manual_seed(0)
    model = create_model("p3d63", num_classes=3)
    model.preprocessing = replace(IMAGENET, num_frames=4, resize=(18, 24), crop=16)
    save_model(model, root / "net.safetensors")
    save_model(model, root / "other.safetensors", source="elsewhere")
    (root / "set").mkdir()
    for number in range(8):
        write_video(root / "set" / f"{number}.avi", 6 + number)
    return root


def words(root: Path, weights: Path, out: Path) -> list[str]:
    fixed = ["--what", "features", "--clips", "40", "--device", "cpu", "--threads", "1"]
    fixed += ["--part-videos", "2", "--format", "jsonl", "--workers", "0"]
    return ["score", str(root / "set"), "--weights", str(weights), "--out", str(out), *fixed]


def rows_of(out: Path) -> dict[str, Any]:
    rows = [row for file in part_files(out / PARTS) for row in read_part(file).rows]
    assert len({row["path"] for row in rows}) == len(rows), "a video twice"
    return {row["path"]: row for row in rows}


@pytest.fixture(scope="module")
def whole(root: Path) -> dict[str, Any]:
    """Return the rows of an undisturbed run."""
    assert main(words(root, root / "net.safetensors", root / "whole")) == 0
    return rows_of(root / "whole")


def write_rows(folder: Path) -> None:
    values = np.zeros(5000, np.float32)
    write_part(folder / "part-000001.jsonl", {}, [{"path": "a", "features": values}])


def write_array(folder: Path) -> None:
    FeatureFolder(folder).add("a.npy", np.zeros(5000, np.float32))


@pytest.mark.parametrize("write", [write_rows, write_array])
def test_a_file_that_does_not_fit_is_one_line_and_leaves_nothing(
    write: Callable[[Path], None], tmp_path: Path
) -> None:
    message = r"cannot be written \(File too large\); fix that, then the same command goes on"
    with pytest.raises(UserError, match=message), no_file_above(8192):
        write(tmp_path)
    assert not [*tmp_path.iterdir()]
    write(tmp_path)
    assert len([*tmp_path.iterdir()]) == 1


@pytest.mark.parametrize("there", [False, True])
def test_a_command_that_fails_at_once_leaves_nothing(
    there: bool, root: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    model = create_model("p3d63", num_classes=3, modality="flow")
    save_model(model, tmp_path / "flow.safetensors")
    out = tmp_path / "archives" / "mine"
    if there:
        out.mkdir(parents=True)
    assert main(words(root, tmp_path / "flow.safetensors", out)) == 2
    assert "holds pictures, but the network takes" in capsys.readouterr().err.splitlines()[-1]
    assert [*out.iterdir()] == [] if there else not out.parent.exists()


def test_a_full_disk_is_one_line_and_the_same_command_goes_on(
    root: Path, whole: dict[str, Any], tmp_path: Path
) -> None:
    command = words(root, root / "net.safetensors", tmp_path / "out")
    # Smaller than a part, larger than everything before it.
    limit = "import resource as r; r.setrlimit(r.RLIMIT_FSIZE, (4096, 4096)); "
    run = "import sys; from p3d.cli import main; sys.exit(main(sys.argv[1:]))"
    ended = subprocess.run(
        [sys.executable, "-c", limit + run, *command], capture_output=True, text=True, check=False
    )
    assert ended.returncode == 2
    last = ended.stderr.splitlines()[-1]
    assert last.startswith(f"p3d: error: {tmp_path / 'out' / PARTS / 'part-000001.jsonl'}: cannot")
    assert "Traceback" not in ended.stderr
    assert main(command) == 0
    assert rows_of(tmp_path / "out") == whole


@pytest.mark.skipif(not Path("/proc/self/task").exists(), reason="finds workers in /proc")
def test_weights_replaced_half_way_are_one_line_and_the_old_ones_go_on(
    root: Path, whole: dict[str, Any], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    weights, out = tmp_path / "net.safetensors", tmp_path / "out"
    shutil.copy(root / "net.safetensors", weights)
    command = [*words(root, weights, out), "--processes", "1"]  # no other one may be starting
    process = subprocess.Popen(
        [sys.executable, "-m", "p3d", *command], stderr=subprocess.PIPE, text=True
    )
    while not part_files(out / PARTS):
        assert process.poll() is None
        time.sleep(0.005)
    workers = archive_workers(process.pid)
    for worker in workers:
        os.kill(worker, signal.SIGSTOP)
    shutil.copy(root / "other.safetensors", tmp_path / "new")
    (tmp_path / "new").replace(weights)
    for worker in workers:
        os.kill(worker, signal.SIGKILL)
    _, errors = process.communicate()
    assert process.returncode == 2
    last = errors.splitlines()[-1]
    assert last.startswith(f"p3d: error: {weights}: was replaced during the run (SHA-256 ")
    assert last.endswith("put the old file back, or choose another --out")
    assert main(command) == 2
    [line] = capsys.readouterr().err.splitlines()
    assert "was made with weights" in line
    shutil.copy(root / "net.safetensors", weights)
    assert main(command) == 0
    assert rows_of(out) == whole
