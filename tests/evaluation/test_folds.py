"""`p3d folds`: runs of all folds, killed, resumed, on several devices, and wrong use."""

from __future__ import annotations

import csv
import io
import json
import re
import signal
from contextlib import redirect_stdout
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from helpers import ended_run
from helpers.processes import finish, train_flags
from helpers.runs import copy_set, start, wait_for_step
from p3d.cli import main
from p3d.data.layouts import DataOptions
from p3d.data.splits import SplitRule
from p3d.evaluation.fold_plan import plan_folds
from p3d.model.network import create_model
from p3d.run_folder import find_checkpoints
from p3d.scores.score_file import ScoreFile, read_score_file, write_score_file
from p3d.training.options import TrainOptions
from p3d.weights.metadata import save_model

pytestmark = pytest.mark.usefixtures("narrow_networks")

PATTERN = "_g([0-9]+)_"
"""Captures the group without the class, unlike the groups that UCF101's layout has."""
FOLDERS = ("fold-01", "fold-02")
TRAIN_VIDEOS = 16
"""Videos of each fold's training list: two of four groups, in eight classes."""


def flags(sample: Path, out: Path, **changes: object) -> list[str]:
    """Return the arguments of two folds of two groups and of two steps each."""
    command = train_flags(
        sample,
        out,
        **{"threads": 1, "epochs": 1, "clips": 2, "folds": 2, "group_pattern": PATTERN} | changes,
    )
    return ["folds", *command[1:]]


def held_out(out: Path) -> ScoreFile:
    """Return the scores of all held-out videos."""
    return read_score_file(out / "scores.npz")


def are_equal(first: ScoreFile, second: ScoreFile) -> bool:
    """Return whether scores are of the same videos and equal bit for bit."""
    same = (first.paths, first.groups) == (second.paths, second.groups)
    return same and np.array_equal(first.logits, second.logits)


@pytest.fixture(scope="module")
def whole(sample: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return the folder of folds that were not interrupted."""
    out = tmp_path_factory.mktemp("folds") / "whole"
    with redirect_stdout(io.StringIO()) as written:
        assert main(flags(sample, out)) == 0
    output = written.getvalue()
    assert f"fold 1: {TRAIN_VIDEOS} training and 16 held-out videos, {out}/fold-01" in output
    assert "of 32 held-out videos" in output
    assert "(bootstrap over 4 groups)" in output
    assert "over 2 folds: mean " in output
    assert "LEAK" not in output
    assert "scores.npz, folds.csv, per_class.csv, confusion.csv" in output
    return out


def test_every_video_is_held_out_once(
    whole: Path, sample: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    scores = held_out(whole)
    names = sorted(path.name for path in sample.rglob("*.avi"))
    assert sorted(Path(path).name for path in scores.paths) == names
    parts = [read_score_file(whole / name / "test") for name in FOLDERS]
    assert np.array_equal(scores.logits, np.concatenate([part.logits for part in parts]))
    for name, part in zip(FOLDERS, parts, strict=True):
        config = json.loads((whole / name / "config.json").read_text())
        assert set(part.groups) == set(config["data"]["splits"]["test_groups"])
    assert not set(parts[0].groups) & set(parts[1].groups)
    rows = list(csv.DictReader((whole / "folds.csv").read_text().splitlines()))
    right = [(p.probabilities().argmax(1) == p.labels).mean() for p in parts]
    assert [float(row["top1"]) for row in rows] == pytest.approx(right, abs=1e-5)
    assert [(row["training"], row["videos"]) for row in rows] == [("16", "16")] * 2
    assert main(["metrics", str(whole)]) == 0
    assert "32 videos, 8 classes, 2 clips a video, held out split" in capsys.readouterr().out
    probed = tmp_path / "probed.npz"  # as p3d probe writes it: of the same videos in any order
    order = np.argsort(scores.paths)
    write_score_file(probed, replace(scores.select(order), protocol={"split": "held out"}))
    assert main(["compare", str(whole), str(probed)]) == 0


def test_a_fold_is_a_plain_run_and_its_evaluation(
    whole: Path, sample: Path, tmp_path: Path
) -> None:
    groups = sorted(set(read_score_file(whole / "fold-02" / "test").groups))
    run, test = tmp_path / "run", tmp_path / "test"
    words = train_flags(sample, run, epochs=1)
    assert main([*words, "--group-pattern", PATTERN, "--test-groups", *groups]) == 0
    assert main(["eval", "--run", str(run), "--clips=2", "--out", str(test)]) == 0
    assert are_equal(read_score_file(test), read_score_file(whole / "fold-02" / "test"))


def test_killed_folds_resume_to_the_same_scores(
    whole: Path, sample: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """The process that is killed leaves no child that would still train."""
    words = flags(sample, tmp_path, save_steps=1)
    process = ended_run.start("fold-02", 1, *words, "--devices", "cpu")
    finish(process, code=-signal.SIGKILL)
    first = (tmp_path / "fold-01" / "best.safetensors").stat().st_mtime_ns
    assert main([*words, "--devices", "cpu", "cpu"]) == 0
    printed = capsys.readouterr().out
    assert printed.startswith("1 of 2 folds is finished already\nfold-02: starts, ")
    assert "epoch 1/1" in (tmp_path / "fold-02" / "output.log").read_text()
    assert (tmp_path / "fold-01" / "best.safetensors").stat().st_mtime_ns == first
    assert are_equal(held_out(tmp_path), held_out(whole))
    capsys.readouterr()
    assert main(words) == 0
    assert capsys.readouterr().out.startswith("2 of 2 folds are finished already\n\nfold ")
    assert main([*words, "--epochs=2"]) == 2
    assert "has --epochs 1, not 2; give the same options" in capsys.readouterr().err
    assert main([*words, "--clips=3"]) == 2
    assert "has --clips 2, not 3" in capsys.readouterr().err
    assert main([*words, "--folds=groups"]) == 2
    assert "has --folds 2, not groups" in capsys.readouterr().err
    assert main([*words, "--no-resume"]) == 2
    assert "already holds folds" in capsys.readouterr().err


def test_stopped_folds_are_saved(sample: Path, tmp_path: Path) -> None:
    process = start(*flags(sample, tmp_path, epochs=2000), "--devices", "cpu")
    wait_for_step(process, tmp_path / "fold-01", 1)
    process.send_signal(signal.SIGTERM)
    output = finish(process, code=128 + signal.SIGTERM)
    assert "stopped by SIGTERM; the same command goes on with these folds" in output
    assert find_checkpoints(tmp_path / "fold-01")
    assert not (tmp_path / "fold-02").exists()


def test_a_stopped_fold_names_one_command(sample: Path, tmp_path: Path) -> None:
    process = start(*flags(sample, tmp_path, epochs=2000))
    wait_for_step(process, tmp_path / "fold-01", 1)
    process.send_signal(signal.SIGINT)
    *_, last = finish(process, code=128 + signal.SIGINT).splitlines()
    assert re.fullmatch(
        r"stopped by SIGINT in epoch \d+ after step \d+; nothing is lost: "
        "the same command goes on with this fold",
        last,
    )


def test_a_failure_before_the_first_checkpoint_can_be_mended(
    sample: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out = tmp_path / "out"
    network = create_model("p3d63", num_classes=8, modality="flow")
    for name, devices in (("a", []), ("b", ["--devices", "cpu"]), ("c", [])):
        other = tmp_path / f"{name}.safetensors"
        save_model(network, other)
        assert main([*flags(sample, out, weights=other), *devices]) == 2
        error = capsys.readouterr().err
        assert f"{'fold-01: ' if devices else ''}{other}" in error  # not: has --weights a
        assert error.count("\n") == 1
        assert out.exists() == (name != "a")  # fold-01 has the output of its process


@pytest.mark.parametrize("devices", [[], ["--devices", "cpu"]])
def test_weights_that_cannot_be_read_leave_nothing(
    devices: list[str], sample: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    damaged = tmp_path / "damaged.pth"
    damaged.write_bytes(b"no weights")
    for weights in (damaged, tmp_path / "gone.pth"):
        out = tmp_path / "runs" / "out"
        assert main([*flags(sample, out, weights=weights), *devices]) == 2
        [line] = capsys.readouterr().err.splitlines()
        assert str(weights) in line
        assert [*tmp_path.iterdir()] == [damaged]


def test_folds_of_single_groups_have_their_names(sample: Path) -> None:
    data = DataOptions(sample, splits=SplitRule(group_pattern=PATTERN))
    options = TrainOptions(data, out=Path("folds"))
    videos, runs = plan_folds(options, "groups")
    assert len(videos.records) == 32
    assert [run.folder for run in runs] == [Path(f"folds/fold-0{n}-0{n}") for n in (1, 2, 3, 4)]
    for number, run in enumerate(runs, start=1):
        assert run.options.data.splits.test_groups == (f"{number:02d}",)
        assert {record.group for record in run.training.records} == {
            f"{other:02d}" for other in (1, 2, 3, 4) if other != number
        }
        assert (len(run.validation.records), run.held_out) == (0, 8)


def test_validation_videos_are_divided_off_those_for_training(sample: Path) -> None:
    data = DataOptions(sample, splits=SplitRule(group_pattern=PATTERN, validation_fraction=0.3))
    _, runs = plan_folds(TrainOptions(data), "groups")
    for run in runs:
        groups = [{r.group for r in part.records} for part in (run.training, run.validation)]
        assert [*map(len, groups)] == [2, 1]
        assert not groups[0] & groups[1]


WRONG = {
    "--group-pattern ^x_(.*)": "--group-pattern '^x_(.*)' finds no group in ",
    "--group-pattern (v)_": "all 32 videos are in one group (v)",
    "--folds 5": "--folds 5: give 2 to 4, the number of groups",
    "--folds 1": "--folds 1: give 2 to 4, the number of groups",
    "--group-pattern v_([A-Za-z]+)_ --folds groups": "fold MoveApart: there is no training "
    "video of the class MoveApart; leave the class out",
    "--test-fraction 0.2": "--test-fraction: p3d folds chooses the test videos itself; drop it",
    "--validation-groups 01": "--validation-groups: p3d folds chooses the test videos itself",
    "--clips 0": "--clips is 0; give 1 or more",
    "--devices gpu": "--devices gpu: is not a device; give cpu, or such as cuda:0",
    "--devices cpu:1": "--devices cpu:1: is not a device",
    "--data absent": "absent: no such folder or manifest",
}


@pytest.mark.parametrize("words", WRONG)
def test_wrong_use_is_one_line(
    words: str, sample: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main([*flags(sample, tmp_path / "out"), *words.split()]) == 2
    error = capsys.readouterr().err
    assert WRONG[words] in error
    assert error.count("\n") == 1
    assert not (tmp_path / "out").exists()


def test_folders_of_another_kind_are_refused(
    whole: Path, sample: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(flags(sample, whole / "fold-01")) == 2
    assert "holds other files, but no folds.json of p3d folds" in capsys.readouterr().err
    record = tmp_path / "folds.json"
    for text in ("{", "[]", "{}", '{"format": "p3d folds", "version": 1, "options": 3}'):
        record.write_text(text)
        assert main(flags(sample, tmp_path)) == 2
        assert f"{record}: is damaged (" in capsys.readouterr().err
    record.write_text('{"format": "p3d folds", "version": 2}')
    assert main(flags(sample, tmp_path)) == 2
    assert "is of another version of p3d" in capsys.readouterr().err


def test_the_plan_starts_nothing(
    sample: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out = tmp_path / "out"
    assert main([*flags(sample, out), "--plan"]) == 0
    printed = capsys.readouterr().out
    assert f"1           16           0        16  {out}/fold-01" in printed
    assert "the plan of the first of 2 folds" in printed
    assert not out.exists()


def test_a_launcher_is_refused(
    sample: Path,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    for name in ("RANK", "WORLD_SIZE", "LOCAL_RANK", "MASTER_ADDR"):
        monkeypatch.setenv(name, "1")
    assert main(flags(sample, tmp_path)) == 2
    assert "start it without torchrun, and give --devices" in capsys.readouterr().err


def test_a_leak_and_unreadable_videos_are_said(
    whole: Path, sample: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    copy_set(sample, tmp_path / "set")
    broken = next((tmp_path / "set").rglob("*_g01_c01.avi"))
    broken.unlink()
    broken.write_bytes(b"no video")
    trained = whole / "fold-01" / "best.safetensors"
    words = flags(tmp_path / "set", tmp_path / "out", weights=trained, max_steps=1)
    assert main(words) == 0
    printed = capsys.readouterr().out
    pooled = printed[printed.index("fold  training  held out") :]
    assert "of 31 held-out videos" in pooled
    assert "LEAK: the network was trained on 16 held-out videos" in pooled
    assert "NOT MEASURED: 1 video that cannot be read" in pooled
    assert len(held_out(tmp_path / "out").paths) == 31
