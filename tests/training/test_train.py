"""Training runs on a tiny data set: output files, stopping, resuming and error messages."""

from __future__ import annotations

import errno
import json
import os
import random
import signal
import subprocess
import sys
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch

from helpers import ended_run
from helpers.disk import content
from helpers.processes import finish, train_flags
from helpers.runs import (
    TINY,
    are_identical,
    copy_set,
    log_lines,
    logged_steps,
    newest,
    options,
    tiny_run,
    weights,
)
from p3d.cli import main
from p3d.data.digests import video_digest
from p3d.data.layouts import DataOptions, read_dataset
from p3d.data.loader import Batch
from p3d.errors import BadVideoError, UserError
from p3d.model.network import create_model
from p3d.run_folder import BEST_FILE, LAST_FILE, find_checkpoints
from p3d.system.resources import can_limit_memory
from p3d.training import loop as train_loop
from p3d.training import validation
from p3d.training.checkpoint import CheckpointState
from p3d.training.checkpoint_files import DamagedCheckpoint, read_checkpoint
from p3d.training.console import epoch_line, print_summary
from p3d.training.recipes import Schedule
from p3d.training.resume import restorable_network
from p3d.training.state import TrainState
from p3d.training.step import train_step
from p3d.training.train import run
from p3d.weights.loading import load_model
from p3d.weights.metadata import save_model

pytestmark = pytest.mark.usefixtures("narrow_networks")


@pytest.fixture(scope="module")
def finished(sample: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return the folder of a complete run."""
    out = tmp_path_factory.mktemp("runs") / "whole"
    assert run(options(sample, out)) == 0
    return out


def test_run_writes_weights_log_and_configuration(finished: Path, sample: Path) -> None:
    assert logged_steps(finished) == [1, 2, 3, 4]
    epochs = log_lines(finished, "epoch")
    assert [line["epoch"] for line in epochs] == [1, 2]
    for line in epochs:
        assert 0 <= line["validation_top1"] <= line["validation_top5"] <= 1
        assert line["train_loss"] > 0
    saved = log_lines(finished, "checkpoint")
    assert [line["step"] for line in saved] == [2, 4]
    assert saved[-1]["bytes"] == (finished / "checkpoint-0000004.pt").stat().st_size
    configuration = json.loads((finished / "config.json").read_text())
    assert configuration["recipe"]["num_frames"] == 4
    model = load_model(finished / BEST_FILE)
    assert model.class_names == read_dataset(DataOptions(sample), "train").class_names
    assert (model.preprocessing.num_frames, model.preprocessing.crop) == (4, 16)
    assert {path.name for path in finished.iterdir()} == {
        ".lock",
        BEST_FILE,
        LAST_FILE,
        "checkpoint-0000002.pt",
        "checkpoint-0000004.pt",
        "config.json",
        "environment.json",
        "log.jsonl",
        "validation.csv",
        "report.html",
    }


def test_best_weights_are_those_of_the_best_epoch(finished: Path) -> None:
    lines = log_lines(finished, "epoch")
    best = max(lines, key=lambda line: (line["validation_top1"], -line["validation_loss"]))
    assert lines[-1]["best_epoch"] == best["epoch"]
    same = are_identical(load_model(finished / BEST_FILE).state_dict(), weights(finished))
    assert same == (best["epoch"] == 2)
    last = load_model(finished / LAST_FILE)
    assert are_identical(last.state_dict(), weights(finished))
    videos, only_best, only_last = lines[-1]["against_best"]
    difference = best["validation_top1"] - lines[-1]["validation_top1"]
    assert (only_best - only_last) / videos == pytest.approx(difference)


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_stopped_run_resumes_to_identical_weights(
    number: signal.Signals, finished: Path, sample: Path, tmp_path: Path
) -> None:
    process = ended_run.start(number.name, 1, *train_flags(sample, tmp_path, workers=1))
    output = finish(process, code=128 + number)
    assert "the same command with --resume continues" in output
    assert "Traceback" not in output
    assert newest(tmp_path).progress.step == 2  # the one during which the signal came
    assert run(options(sample, tmp_path, resume=True)) == 0
    assert are_identical(weights(tmp_path), weights(finished))
    assert logged_steps(tmp_path) == [1, 2, 3, 4]


def test_resuming_a_finished_run_changes_no_checkpoint(
    finished: Path, sample: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    before = [(path, path.read_bytes()) for path in find_checkpoints(finished)]
    assert run(options(sample, finished, resume=True)) == 0
    assert [(path, path.read_bytes()) for path in find_checkpoints(finished)] == before
    assert "best (epoch" in capsys.readouterr().out


def test_resume_starts_a_run_if_there_is_none(sample: Path, tmp_path: Path) -> None:
    recipe = replace(TINY, max_steps=1)
    assert run(options(sample, tmp_path, recipe, resume=True)) == 0
    assert newest(tmp_path).progress.step == 1


def test_existing_run_is_not_overwritten(finished: Path, sample: Path) -> None:
    with pytest.raises(UserError, match="already holds a run; add --resume"):
        run(options(sample, finished))


@pytest.mark.parametrize("kept", [BEST_FILE, LAST_FILE])
def test_networks_of_a_run_without_checkpoints_are_not_overwritten(
    kept: str, sample: Path, tmp_path: Path
) -> None:
    for name in (kept, "log.jsonl", ".lock"):
        (tmp_path / name).touch()
    with pytest.raises(UserError, match=f"{kept}: is of an earlier run, which has no checkpoint"):
        run(options(sample, tmp_path))
    assert content(tmp_path) == {kept: b"", "log.jsonl": b"", ".lock": b""}


def test_run_killed_in_its_first_save_starts_again(sample: Path, tmp_path: Path) -> None:
    """The best network is there already, the first checkpoint is not."""
    words = train_flags(sample, tmp_path, resume=True, epochs=1)
    finish(ended_run.start("saving", 2, *words), code=-signal.SIGKILL)
    assert (tmp_path / BEST_FILE).exists()
    assert find_checkpoints(tmp_path) == []
    assert run(options(sample, tmp_path, replace(TINY, epochs=1), resume=True)) == 0
    assert newest(tmp_path).progress.step == 2


def test_resume_rejects_other_options(finished: Path, sample: Path) -> None:
    changed = options(sample, finished, replace(TINY, lr=0.5), resume=True)
    with pytest.raises(UserError, match=r"has --lr 0\.02, not 0\.5; resume with"):
        run(changed)


@pytest.mark.parametrize("damage", [b"", b"<html>not found</html>", None])
def test_damaged_checkpoint_is_reported_and_the_previous_one_used(
    damage: bytes | None,
    finished: Path,
    sample: Path,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
) -> None:
    newest_path, previous = find_checkpoints(finished)
    content = newest_path.read_bytes()
    (tmp_path / newest_path.name).write_bytes(
        content[: len(content) // 2] if damage is None else damage
    )
    with pytest.raises(UserError, match=r"no checkpoint of .* can be read: .*0004\.pt: .*damaged"):
        run(options(sample, tmp_path, resume=True))
    (tmp_path / previous.name).hardlink_to(previous)
    assert run(options(sample, tmp_path, resume=True)) == 0
    (message,) = (line for line in capsys.readouterr().out.splitlines() if "DAMAGED" in line)
    assert message.startswith(
        f"DAMAGED: {tmp_path / newest_path.name}: the checkpoint is damaged ("
    )
    assert len(message) < len(str(tmp_path)) + 200
    assert are_identical(weights(tmp_path), weights(finished))


def test_accumulated_gradients_equal_those_of_one_large_batch(sample: Path) -> None:
    recipe = replace(TINY, norms="freeze-all", dropout=0.0, zero_init_residuals=False, lr=1e-3)
    whole, batches = tiny_run(sample, replace(recipe, batch_size=8))
    parts, _ = tiny_run(sample, replace(recipe, batch_size=4, clips_per_step=8))
    first = batches[0]
    step = train_step(whole, (first,))
    halves = tuple(
        Batch(first.clips[part], first.labels[part], first.indices[part], ())
        for part in (slice(0, 3), slice(3, 8))  # uneven: a video may have been skipped
    )
    assert train_step(parts, halves).loss == pytest.approx(step.loss, rel=1e-5)
    for ours, theirs in zip(parts.model.parameters(), whole.model.parameters(), strict=True):
        torch.testing.assert_close(ours, theirs, rtol=1e-4, atol=1e-6)


def test_activation_checkpointing_does_not_change_results(sample: Path) -> None:
    kept, batches = tiny_run(sample, TINY)
    recomputed, _ = tiny_run(sample, TINY)
    recomputed.model.checkpoint_activations = True
    for batch in batches:
        assert train_step(kept, (batch,)) == train_step(recomputed, (batch,))
    assert are_identical(recomputed.model.state_dict(), kept.model.state_dict())


@pytest.mark.parametrize("precision", ["bf16", "fp16"])
def test_trains_in_mixed_precision(precision: str, sample: Path, tmp_path: Path) -> None:
    recipe = replace(TINY, max_steps=1)
    assert run(options(sample, tmp_path, recipe, precision=precision)) == 0
    assert all(tensor.isfinite().all() for tensor in weights(tmp_path).values())
    assert weights(tmp_path)["stem.conv.weight"].dtype == torch.float32


def test_weights_that_are_not_finite_are_said_to_be_so(sample: Path, tmp_path: Path) -> None:
    model = create_model("p3d63", num_classes=8)
    with torch.no_grad():
        model.stem.conv.weight[0] = torch.nan
    save_model(model, tmp_path / "nan.safetensors")
    recipe = replace(TINY, max_steps=1)
    with pytest.raises(UserError, match=r"at step 1 .* no step was made yet: check the file of"):
        run(options(sample, tmp_path / "run", recipe, weights=tmp_path / "nan.safetensors"))


def test_an_error_in_the_first_step_leaves_only_what_was_there(
    sample: Path, tmp_path: Path
) -> None:
    model = create_model("p3d63", num_classes=8)
    with torch.no_grad():
        model.stem.conv.weight[0] = torch.nan
    save_model(model, tmp_path / "nan.safetensors")
    out = tmp_path / "runs" / "first"
    wrong = options(sample, out, weights=tmp_path / "nan.safetensors", tensorboard=True)
    for message, changes in {
        "no step was made yet": {},
        "one value per": {"recipe": replace(TINY, batch_size=1), "weights": None},
    }.items():
        with pytest.raises(UserError, match=message):
            run(replace(wrong, **changes))
        assert not out.parent.exists()
    out.mkdir(parents=True)
    (out / "output.txt").write_text("of the shell")
    (out / "log.jsonl").touch()
    with pytest.raises(UserError, match="no step was made yet"):
        run(wrong)
    assert sorted(path.name for path in out.iterdir()) == [".lock", "log.jsonl", "output.txt"]
    assert run(replace(wrong, weights=None, recipe=replace(TINY, max_steps=1))) == 0


# All modules are there before the limit: Python itself may not survive it, and run for ever.
LIMITED = """
import sys
import torch._dynamo
from p3d.cli import main
from p3d.system.resources import limit_memory
from p3d.training import train
limit_memory(2**27)
sys.exit(main(sys.argv[1:]))
"""


@pytest.mark.skipif(not can_limit_memory(), reason="only Linux limits the memory of a process")
def test_too_little_memory_is_one_line_and_leaves_nothing(sample: Path, tmp_path: Path) -> None:
    words = train_flags(sample, tmp_path / "run", batch_size=16, num_frames=16, crop=160)
    size = words.index("--resize") + 1
    words[size : size + 2] = ["180", "180"]
    ended = subprocess.run(
        [sys.executable, "-c", LIMITED, *words],
        capture_output=True,
        text=True,
        check=False,
        timeout=600,
    )
    last = ended.stderr.splitlines()[-1]
    assert (ended.returncode, last[:26]) == (2, "p3d: error: out of memory;")
    assert "--batch-size" in last
    assert "Traceback" not in ended.stderr
    assert not (tmp_path / "run").exists()


def test_training_skips_a_broken_video(
    sample: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    data = tmp_path / "set"
    copy_set(sample, data)
    broken = next(data.glob("train/*/*.avi"))
    broken.unlink()
    broken.write_bytes(b"no video")
    recipe = replace(TINY, epochs=2)
    assert run(options(data, tmp_path / "run", recipe)) == 0
    out = capsys.readouterr().out
    assert out.count("1 video SKIPPED") == 2, "each epoch counts it"
    assert out.count("skipped ") == 1, "and the first one says why"
    with pytest.raises(BadVideoError, match=f"{broken.name}.*--on-bad-video skip goes on"):
        run(options(data, tmp_path / "strict", recipe, on_bad_video="error"))


def test_last_network_is_kept_without_a_validation_list(
    sample: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    data = tmp_path / "set"
    copy_set(sample, data)
    (data / "ucfTrainTestlist" / "validationlist01.txt").unlink()
    assert run(options(data, tmp_path / "run")) == 0
    output = capsys.readouterr().out
    assert "no validation: best.safetensors will be the network of the last epoch" in output
    assert "last (epoch 2)" in output
    assert "validation top-1" not in output
    kept = load_model(tmp_path / "run" / BEST_FILE).state_dict()
    assert are_identical(kept, weights(tmp_path / "run"))
    with pytest.raises(UserError, match="--patience needs a validation list"):
        run(options(data, tmp_path / "other", patience=1))


def test_patience_ends_a_run_without_improvement(sample: Path, tmp_path: Path) -> None:
    recipe = replace(TINY, lr=1e-9, epochs=6)
    assert run(options(sample, tmp_path, recipe, patience=1)) == 0
    accuracies = [line["validation_top1"] for line in log_lines(tmp_path, "epoch")]
    assert len(accuracies) < 6
    assert accuracies[-1] <= max(accuracies[:-1])


def test_summary_of_a_run_without_a_log(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    print_summary(tmp_path, 8)
    assert "has no complete epoch" in capsys.readouterr().out


def test_extended_run_equals_a_run_of_that_length(
    sample: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """The first part ends in the middle of an epoch."""
    recipe = replace(TINY, schedule="cyclic", cyclic_half_epochs=0.75)
    whole, parts = tmp_path / "whole", tmp_path / "parts"
    assert run(options(sample, whole, recipe)) == 0
    assert run(options(sample, parts, replace(recipe, max_steps=3))) == 0
    assert newest(parts).progress.step == 3
    capsys.readouterr()
    assert run(options(sample, parts, recipe, resume=True)) == 0
    assert (
        "extended from 3 to 4 steps: the cyclic learning rate continues, as in a run of this "
        "length\n"
    ) in capsys.readouterr().out
    assert are_identical(weights(parts), weights(whole))
    assert logged_steps(parts) == [1, 2, 3, 4]
    assert newest(parts).progress.epoch == 2
    with pytest.raises(UserError, match=r"has --max-steps unset, not 3; resume with"):
        run(options(sample, parts, replace(recipe, max_steps=3), resume=True))
    with pytest.raises(UserError, match=r"has --epochs 2, not 1; resume with"):
        run(options(sample, parts, replace(recipe, epochs=1), resume=True))


@pytest.mark.parametrize("schedule", ["one-cycle", "cosine"])
def test_extended_run_stretches_its_schedule_and_resumes_bit_for_bit(
    schedule: Schedule, sample: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    recipe = replace(TINY, schedule=schedule, epochs=3, batch_size=4)
    start_state, _ = tiny_run(sample, recipe)
    planned = []
    for _ in range(12):
        planned.append(start_state.lr)
        start_state.schedule.step()
    assert run(options(sample, tmp_path, replace(recipe, epochs=2))) == 0
    capsys.readouterr()
    longer = options(sample, tmp_path, recipe, resume=True, save_steps=1)
    assert run(longer) == 0
    line = f"extended from 8 to 12 steps: the {schedule} schedule is stretched and goes on with a"
    assert line in capsys.readouterr().out
    lrs = [line["lr"] for line in log_lines(tmp_path, "step")]
    assert lrs[8:] == planned[8:]
    extended = weights(tmp_path)
    find_checkpoints(tmp_path)[0].unlink()
    assert newest(tmp_path).progress.step == 11
    assert run(longer) == 0
    assert "extended from" not in capsys.readouterr().out
    assert are_identical(weights(tmp_path), extended)


def test_non_finite_validation_scores_do_not_end_a_run(
    sample: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    """Only evaluation uses the running statistics, so the training steps stay finite."""
    step = train_loop.train_step

    def step_with_nan_statistics(state: TrainState, batches: Any) -> Any:
        state.model.stem.bn.running_var.fill_(torch.nan)
        return step(state, batches)

    monkeypatch.setattr(train_loop, "train_step", step_with_nan_statistics)
    assert run(options(sample, tmp_path, replace(TINY, epochs=1))) == 0
    assert "NOT FINITE: the scores of 8 validation videos" in capsys.readouterr().out
    (epoch,) = log_lines(tmp_path, "epoch")
    assert epoch["validation_top1"] == epoch["validation_top5"] == 0


def test_non_finite_loss_ends_the_run(sample: Path, tmp_path: Path) -> None:
    recipe = replace(TINY, schedule="constant", lr=1e30, clip_gradients=None)
    with pytest.raises(UserError, match=r"is (nan|inf) at step \d of .* on .*\.avi.*lower --lr"):
        run(options(sample, tmp_path, recipe))


def test_fine_tuning_replaces_the_classifier(
    finished: Path, sample: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    folders = tmp_path / "two"
    for split in ("train", "test"):
        for name in ("MoveLeft", "MoveRight"):
            (folders / split / name).mkdir(parents=True)
            for video in (sample / split / name).iterdir():
                (folders / split / name / video.name).hardlink_to(video)
    recipe = replace(TINY, epochs=1, batch_size=4, lr=1e-9, norms="freeze-all")
    tuning = options(folders, tmp_path / "run", recipe, weights=finished / BEST_FILE)
    assert run(tuning) == 0
    assert "the model keeps its own of 2" in capsys.readouterr().out
    tuned, before = load_model(tmp_path / "run" / BEST_FILE), load_model(finished / BEST_FILE)
    assert tuned.class_names == ("MoveLeft", "MoveRight")
    both = [
        video_digest(record, dataset.class_names)
        for dataset in (read_dataset(folders, "train"), read_dataset(sample, "train"))
        for record in dataset.records
    ]
    assert tuned.trained_on == frozenset(both)
    assert len(before.trained_on) == 16
    torch.testing.assert_close(
        tuned.res3[0].spatial.conv.weight, before.res3[0].spatial.conv.weight
    )


def test_weights_of_another_depth_are_rejected(
    finished: Path, sample: Path, tmp_path: Path
) -> None:
    recipe = replace(TINY, network="p3d131")
    with pytest.raises(
        UserError, match="network is p3d63, p3d131 was asked for; give --network p3d63"
    ):
        run(options(sample, tmp_path, recipe, weights=finished / BEST_FILE))


def test_a_run_that_cannot_start_leaves_nothing(sample: Path, tmp_path: Path) -> None:
    damaged = tmp_path / "damaged.pth"
    damaged.write_bytes(b"no weights")
    out = tmp_path / "runs" / "first"
    for message, changes in {
        "gone.pth": {"weights": tmp_path / "gone.pth"},
        "damaged.pth": {"weights": damaged},
        "takes optical flow": {"modality": "flow"},
    }.items():
        with pytest.raises(UserError, match=message):
            run(options(sample, out, **changes))
        assert [*tmp_path.iterdir()] == [damaged]


def test_tensorboard_receives_scalars_and_clips(sample: Path, tmp_path: Path) -> None:
    pytest.importorskip("tensorboard")
    recipe = replace(TINY, max_steps=1)
    assert run(options(sample, tmp_path, recipe, tensorboard=True)) == 0
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    events = EventAccumulator(str(tmp_path / "tensorboard"))
    events.Reload()
    assert "step/loss" in events.Tags()["scalars"]
    assert "epoch/validation_top1" in events.Tags()["scalars"]
    assert "train/clips/0" in events.Tags()["images"]


def test_resume_needs_only_the_checkpoint(
    finished: Path, sample: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """The weights that the run started from may be gone."""
    weights_file = tmp_path / "start.safetensors"
    weights_file.write_bytes((finished / BEST_FILE).read_bytes())
    recipe = replace(TINY, lr=1e-3)
    whole, parts = tmp_path / "whole", tmp_path / "parts"
    assert run(options(sample, whole, recipe, weights=weights_file)) == 0
    assert run(options(sample, parts, recipe, weights=weights_file)) == 0
    find_checkpoints(parts)[0].unlink()
    weights_file.unlink()
    capsys.readouterr()
    assert run(options(sample, parts, recipe, weights=weights_file, resume=True)) == 0
    assert "resuming in epoch 2 after step 2" in capsys.readouterr().out
    assert are_identical(weights(parts), weights(whole))


@pytest.mark.parametrize("version", [1, 2, 3])
def test_resumes_from_checkpoints_of_earlier_versions(
    version: int, finished: Path, sample: Path, tmp_path: Path
) -> None:
    path = find_checkpoints(finished)[1]
    contents = torch.load(path, weights_only=True)
    contents["version"] = version
    del contents["average"]
    if version < 3:
        for name in ("best_loss", "best_answers", "improved_epoch"):
            del contents["progress"][name]
    if version == 1:
        del contents["version"]
        for group in contents["optimizer"]["param_groups"]:
            group["rate"] = group.pop("lr_mult")
    torch.save(contents, tmp_path / path.name)
    assert read_checkpoint(tmp_path / path.name).progress.improved_epoch == 1
    assert run(options(sample, tmp_path, resume=True)) == 0
    assert are_identical(weights(tmp_path), weights(finished))


@pytest.mark.parametrize(
    ("change", "reason"),
    [
        (lambda contents: contents.update(version=5), "version 5 is newer than 4; upgrade p3d"),
        (lambda contents: contents.pop("optimizer"), "entry 'optimizer' is missing or damaged"),
        (lambda contents: contents.pop("average"), "entry 'average' is missing or damaged"),
        (lambda contents: contents.update(clips_per_step="8"), "entry 'clips_per_step' is missing"),
        (lambda contents: contents["progress"].pop("step"), "entry 'progress' is damaged"),
    ],
)
def test_invalid_checkpoint_is_rejected_in_one_line(
    change: Callable[[dict[str, Any]], Any], reason: str, finished: Path, tmp_path: Path
) -> None:
    contents = torch.load(find_checkpoints(finished)[0], weights_only=True)
    change(contents)
    path = tmp_path / "checkpoint-0000004.pt"
    torch.save(contents, path)
    with pytest.raises(UserError) as caught:
        read_checkpoint(path)
    assert str(caught.value).startswith(f"{path}: the checkpoint cannot be used (")
    assert reason in str(caught.value)


def run_with_changed_newest(change: Any, finished: Path, sample: Path, out: Path) -> None:
    """Resume from a copy of a run whose newest checkpoint was changed and saved again."""
    newest_path, previous = find_checkpoints(finished)
    contents = torch.load(newest_path, weights_only=True)
    change(contents)
    torch.save(contents, out / newest_path.name)
    (out / previous.name).hardlink_to(previous)
    assert run(options(sample, out, resume=True)) == 0


@pytest.mark.parametrize(
    ("change", "entry"),
    [
        (lambda c: c["model"].pop("stem.conv.weight"), "stem.conv.weight"),
        (lambda c: c["model"].update({"fc.bias": torch.zeros(9)}), "fc.bias"),
        (lambda c: c["model"].update({"fc.bias": 1.0}), "'model'"),
        (lambda c: c["model"].update({"fc.bias": torch.zeros(8).int()}), "fc.bias int32"),
        (lambda c: c["metadata"].update(num_classes="eight"), "eight"),
        (lambda c: c["metadata"].update(name=3), "'metadata'"),
        (lambda c: c["metadata"].update(preprocessing="[]"), "preprocessing"),
        (lambda c: c["optimizer"].pop("state"), "'optimizer'"),
        (lambda c: c["optimizer"]["state"].pop(3), "'optimizer'"),
        (lambda c: c["optimizer"]["state"][3].update(momentum_buffer=torch.ones(1)), "'optimizer'"),
        (lambda c: c["optimizer"].update(param_groups=[]), "'optimizer'"),
        (lambda c: c["optimizer"]["param_groups"][1].pop("lr"), "'optimizer'"),
        (lambda c: c["optimizer"]["param_groups"][1].update(momentum="high"), "'optimizer'"),
        (lambda c: c["schedule"].pop("last_epoch"), "'schedule'"),
        (lambda c: c["schedule"].update(_schedule_phases=None), "'schedule'"),
        (lambda c: c["scaler"].update(scale=1.0), "'scaler'"),
        (lambda c: c["progress"].update(clips=None), "'progress'"),
        (lambda c: c["progress"].update(best_answers="yes"), "'progress'"),
        (lambda c: c["progress"].update(best_loss=None), "'progress'"),
        (lambda c: c.update(version="2"), "version"),
    ],
)
def test_checkpoint_that_does_not_fit_the_run_is_refused(
    change: Callable[[dict[str, Any]], Any], entry: str, finished: Path, sample: Path
) -> None:
    contents = torch.load(find_checkpoints(finished)[0], weights_only=True, mmap=True)
    change(contents)
    with pytest.raises(ValueError, match=entry):
        restorable_network(CheckpointState.from_dict(contents), options(sample, finished))


def test_checkpoint_that_does_not_fit_is_named_and_the_previous_one_used(
    finished: Path, sample: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    def change(contents: dict[str, Any]) -> None:
        contents["optimizer"]["state"][3].update(momentum_buffer=torch.ones(1))

    run_with_changed_newest(change, finished, sample, tmp_path)
    output = capsys.readouterr().out
    (message,) = (line for line in output.splitlines() if "DAMAGED" in line)
    assert "0004.pt: the checkpoint cannot be used (its entry 'optimizer' is damaged)" in message
    assert are_identical(weights(tmp_path), weights(finished))


def test_settings_that_a_checkpoint_lacks_come_from_the_recipe(
    finished: Path, sample: Path, tmp_path: Path
) -> None:
    """Releases of PyTorch save different keys."""
    newest_path, previous = find_checkpoints(finished)
    contents = torch.load(previous, weights_only=True)
    for group in contents["optimizer"]["param_groups"]:
        del group["momentum"], group["max_lr"]
    del contents["schedule"]["total_steps"]
    torch.save(contents, tmp_path / previous.name)
    assert run(options(sample, tmp_path, resume=True)) == 0
    assert are_identical(weights(tmp_path), read_checkpoint(newest_path).model)


def test_lost_sector_is_found_and_the_previous_checkpoint_used(
    finished: Path, sample: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    newest_path, previous = find_checkpoints(finished)
    content = bytearray(newest_path.read_bytes())
    middle = len(content) // 2
    assert any(content[middle : middle + 512])
    content[middle : middle + 512] = bytes(512)
    (tmp_path / newest_path.name).write_bytes(content)
    (tmp_path / previous.name).hardlink_to(previous)
    torch.load(tmp_path / newest_path.name, weights_only=True)  # PyTorch does not notice
    assert run(options(sample, tmp_path, resume=True)) == 0
    assert "0000004.pt: the checkpoint is damaged (the checksum of its part" in (
        capsys.readouterr().out
    )
    assert are_identical(weights(tmp_path), weights(finished))


def test_damage_anywhere_in_a_checkpoint_is_reported(tmp_path: Path) -> None:
    """Zeros, ones and random bytes, at the places that a zip reader interprets."""
    path = tmp_path / "checkpoint-0000003.pt"
    torch.save({"format": "?", "model": {"a": torch.arange(99.0)}}, path)
    whole = path.read_bytes()
    draw = random.Random(1)
    for offset in [*range(0, 300, 3), *range(len(whole) - 900, len(whole), 3)]:
        damaged = bytearray(whole)
        damaged[offset : offset + 8] = draw.choice([bytes(8), b"\xff" * 8, draw.randbytes(8)])
        path.write_bytes(damaged)
        with pytest.raises(DamagedCheckpoint):
            read_checkpoint(path)


@pytest.mark.parametrize("code", [errno.EACCES, errno.EIO, errno.ESTALE, errno.EMFILE])
def test_checkpoint_that_cannot_be_read_is_not_damage(
    code: int, finished: Path, sample: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    newest_path, previous = find_checkpoints(finished)
    for path in (newest_path, previous):
        (tmp_path / path.name).hardlink_to(path)
    open_file = Path.open

    def refuse(path: Path, *arguments: Any, **settings: Any) -> Any:
        if path.name == newest_path.name:
            raise OSError(code, os.strerror(code))
        return open_file(path, *arguments, **settings)

    monkeypatch.setattr(Path, "open", refuse)
    with pytest.raises(UserError, match=r"0004\.pt: the checkpoint cannot be read \(.*\); nothing"):
        run(options(sample, tmp_path, resume=True))
    assert find_checkpoints(tmp_path) == [tmp_path / newest_path.name, tmp_path / previous.name]


def test_newer_checkpoint_is_not_damage(finished: Path, sample: Path, tmp_path: Path) -> None:
    with pytest.raises(UserError, match="its version 5 is newer than 4; upgrade p3d"):
        run_with_changed_newest(lambda c: c.update(version=5), finished, sample, tmp_path)
    assert len(find_checkpoints(tmp_path)) == 2


def test_starts_from_a_saved_configuration(
    finished: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    config = finished / "config.json"
    out = tmp_path / "run"
    command = ["train", "--config", str(config), "--out", str(out), "--max-steps", "1"]
    assert main(command) == 0
    saved, new = (json.loads(path.read_text()) for path in (config, out / "config.json"))
    assert new == saved | {
        "resume": False,
        "out": str(out),
        "recipe": saved["recipe"] | {"max_steps": 1},
    }
    assert newest(out).progress.step == 1
    capsys.readouterr()
    assert main(["train", "--config", str(config)]) == 2
    assert "already holds a run; add --resume" in capsys.readouterr().err
    assert main([*command, "--recipe", "sample"]) == 2
    assert "give --config or --recipe, not both" in capsys.readouterr().err


@pytest.mark.parametrize("text", ["", "[]", '{"recipe": 1}', "{"])
def test_invalid_configuration_is_reported_in_one_line(
    text: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    path = tmp_path / "config.json"
    path.write_text(text)
    assert main(["train", "--config", str(path)]) == 2
    assert capsys.readouterr().err.startswith(f"p3d: error: --config {path}: ")


def test_ties_are_broken_by_the_loss_and_then_the_later_epoch(
    sample: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Patience still waits for a better accuracy."""
    results = iter([(0.5, 2.0), (0.5, 1.0), (0.5, 1.5), (0.5, 1.0), (0.25, 0.1)])
    measure = validation.measure

    def measure_as(*arguments: Any) -> Any:
        top1, loss = next(results)
        return replace(measure(*arguments), top1=top1, loss=loss)

    monkeypatch.setattr(validation, "measure", measure_as)
    recipe = replace(TINY, epochs=8, batch_size=16)
    assert run(options(sample, tmp_path, recipe, patience=4)) == 0
    lines = log_lines(tmp_path, "epoch")
    assert [line["best_epoch"] for line in lines] == [1, 2, 2, 4, 4]
    progress = newest(tmp_path).progress
    assert (progress.best_top1, progress.best_loss, progress.improved_epoch) == (0.5, 1.0, 1)
    best, last = (load_model(tmp_path / name).state_dict() for name in (BEST_FILE, LAST_FILE))
    assert are_identical(last, weights(tmp_path))
    assert not are_identical(best, last)


def test_best_and_last_share_a_file_while_they_are_the_same(finished: Path) -> None:
    best_is_last = log_lines(finished, "epoch")[-1]["best_epoch"] == 2
    assert (finished / BEST_FILE).samefile(finished / LAST_FILE) == best_is_last


def test_epoch_fits_a_terminal_of_80_columns() -> None:
    values = {
        "train_loss": 12.3456,
        "train_top1": 1.0,
        "validation_loss": 10.2345,
        "validation_top1": 1.0,
        "seconds": 4321.0,
        "bad_videos": 0,
    }
    line = epoch_line(5, 200, values)
    assert line == (
        "epoch   5/200 | loss 12.346, top-1 100.0% | validation 10.235, 100.0% | 4321 s"
    )
    assert len(line) <= 80
