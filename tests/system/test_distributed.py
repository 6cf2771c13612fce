"""Several processes give the results of one: training, evaluation, stopping, failing."""

from __future__ import annotations

import json
from dataclasses import asdict, replace
from pathlib import Path

import numpy as np
import pytest
import torch

from helpers import ended_run
from helpers.processes import finish, launch, train_flags
from helpers.runs import TINY, copy_set, newest, options
from p3d.cli import main
from p3d.errors import UserError
from p3d.run_folder import BEST_FILE, find_checkpoints, read_log
from p3d.scores.score_file import read_score_file
from p3d.system.device import resolve_device
from p3d.system.distributed import Launch, read_launch
from p3d.training.checkpoint_files import read_newest
from p3d.training.train import run

pytestmark = pytest.mark.usefixtures("narrow_networks")

# Settings under which one and two processes give the same weights.
SAME_ON_ALL = {"norms": "freeze-all", "dropout": 0.5, "lr": 1e-3, "average_epochs": 1.5}


def test_steps_and_exchanges_of_two_processes() -> None:
    script = Path(__file__).parents[1] / "helpers" / "distributed_checks.py"
    output = finish(launch(2, script, module=False))
    assert output.count("all checks passed") == 2


@pytest.fixture(scope="module")
def pair(sample: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder of a complete run of two processes, with 8 clips a step."""
    out = tmp_path_factory.mktemp("pair") / "run"
    output = finish(launch(2, *train_flags(sample, out, batch_size=4, **SAME_ON_ALL)))
    assert output.count("p3d63 (rgb") == 1, "only the main process prints"
    assert "4 steps of 8 clips, 4 at a time on each of 2 processes" in output
    assert "learning rate 0.001 (one-cycle)" in output
    return out


def assert_close(ours: dict[str, torch.Tensor], theirs: dict[str, torch.Tensor]) -> None:
    assert ours
    for name, tensor in ours.items():
        torch.testing.assert_close(tensor, theirs[name], rtol=1e-4, atol=1e-6, msg=name)


def test_one_and_two_processes_agree(pair: Path, sample: Path, tmp_path: Path) -> None:
    recipe = replace(TINY, **SAME_ON_ALL)
    assert run(options(sample, tmp_path, recipe)) == 0
    ours, theirs = newest(pair), newest(tmp_path)
    assert_close(ours.model, theirs.model)
    assert_close(ours.average, theirs.average)
    together, alone = read_log(pair), read_log(tmp_path)
    for line, other in zip(together, alone, strict=True):
        assert (line["event"], line["step"]) == (other["event"], other["step"])
        assert line.keys() == other.keys()
        for name in {"loss", "train_loss", "train_top1", "validation_loss"} & line.keys():
            assert line[name] == pytest.approx(other[name], rel=1e-4), name
    assert together[0]["processes"] == 2


def test_one_and_two_processes_write_the_same_scores(
    pair: Path, sample: Path, tmp_path: Path
) -> None:
    """Batches of five clips hold other videos in two processes than in one."""
    flags = ("--clips", 2, "--device", "cpu", "--workers", 0, "--threads", 1, "--batch-size", 5)
    command = ("eval", "--data", sample, "--weights", pair / BEST_FILE, *flags)
    one, two = tmp_path / "one", tmp_path / "two"
    assert main([*map(str, command), "--out", str(one)]) == 0
    finish(launch(2, *command, "--out", two))
    for name in ("scores.csv", "per_class.csv", "confusion.csv"):
        assert (one / name).read_bytes() == (two / name).read_bytes()
    metrics, others = (json.loads((each / "metrics.json").read_text()) for each in (one, two))
    assert metrics["videos"] == 8
    for name in ("videos", "top1", "top5", "mean_class", "loss", "clips_scored", "bad"):
        assert metrics[name] == others[name]
    alone, both = asdict(read_score_file(one)), asdict(read_score_file(two))
    assert (alone["starts"][:, 0] == 0).all()
    assert (alone["starts"][:, 1] > 0).all()
    for name, value in alone.items():
        np.testing.assert_array_equal(value, both[name], err_msg=name)


def test_one_process_resumes_a_stopped_run_of_two(pair: Path, sample: Path, tmp_path: Path) -> None:
    flags = train_flags(sample, tmp_path, batch_size=4, resume=True, **SAME_ON_ALL)
    output = finish(launch(2, ended_run.__file__, "SIGTERM", 1, *flags, module=False), code=1)
    assert "stopped by SIGTERM in epoch 1 after step 2" in output
    assert newest(tmp_path).progress.step == 2
    recipe = replace(TINY, batch_size=4, **SAME_ON_ALL)
    assert run(options(sample, tmp_path, recipe, resume=True)) == 0
    start = [line for line in read_log(tmp_path) if line["event"] == "start"][-1]
    assert (start["processes"], start["clips_per_step"]) == (1, 8)
    ours, theirs = newest(tmp_path), newest(pair)
    assert_close(ours.model, theirs.model)
    assert_close(ours.average, theirs.average)


def test_a_failed_process_ends_all(sample: Path, tmp_path: Path) -> None:
    data = tmp_path / "set"
    copy_set(sample, data)
    broken = next(data.glob("train/*/*.avi"))
    broken.unlink()
    broken.write_bytes(b"no video")
    flags = train_flags(data, tmp_path / "run", batch_size=4, on_bad_video="error")
    output = finish(launch(2, *flags), code=1)
    assert f"p3d: error: {broken}: " in output


def test_the_variables_of_torchrun_are_read(monkeypatch: pytest.MonkeyPatch) -> None:
    names = ("RANK", "WORLD_SIZE", "LOCAL_RANK", "MASTER_ADDR")
    for name in names:
        monkeypatch.delenv(name, raising=False)
    assert read_launch() == Launch(0, 1, 0)
    monkeypatch.setenv("WORLD_SIZE", "4")  # some schedulers set only this one
    assert read_launch() == Launch(0, 1, 0)
    for name, value in zip(names, ("3", "4", "1", "localhost"), strict=True):
        monkeypatch.setenv(name, value)
    assert read_launch() == Launch(3, 4, 1, launched=True)


def test_tf32_is_an_error_on_a_cpu(sample: Path, tmp_path: Path) -> None:
    with pytest.raises(UserError, match="--precision tf32 is for cuda and mlu"):
        run(options(sample, tmp_path, precision="tf32"))


def test_processes_share_a_cpu() -> None:
    assert resolve_device("cpu", 3) == torch.device("cpu")


def test_a_folder_without_checkpoints(tmp_path: Path) -> None:
    assert read_newest(tmp_path) == (None, ())
    assert find_checkpoints(tmp_path / "absent") == []
