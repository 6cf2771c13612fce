"""Options of a run: their ranges, and saving and restoring them."""

from __future__ import annotations

from dataclasses import fields, replace
from pathlib import Path
from typing import Any, get_args

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from helpers.runs import TINY, are_identical, log_lines, options, weights
from p3d.cli import main
from p3d.cli.parse import parse_options
from p3d.data.dataset import VideoDataset, VideoRecord
from p3d.data.layouts import DataOptions
from p3d.data.loader import BadVideoPolicy
from p3d.data.splits import SplitRule
from p3d.data.transforms import Augmentation
from p3d.errors import UserError
from p3d.model.config import Modality, Name, Variant, Wiring
from p3d.run_folder import BEST_FILE, LAST_FILE
from p3d.system.device import DeviceName, Precision
from p3d.system.files import write_json
from p3d.system.options import DeviceOptions, plain_options
from p3d.training.checks import check_classes
from p3d.training.options import TrainOptions
from p3d.training.recipes import NormPolicy, Recipe, Schedule
from p3d.training.trackers import TrackerName
from p3d.training.train import run
from p3d.weights.loading import load_model

pytestmark = pytest.mark.usefixtures("narrow_networks")

NAN, INF = float("nan"), float("inf")

WRONG: list[tuple[str, Any, str]] = [
    ("epochs", 0, "1 or more"),
    ("batch_size", -1, "1 or more"),
    ("num_frames", 0, "1 or more"),
    ("crop", -8, "1 or more"),
    ("max_steps", 0, "1 or more, or omit it"),
    ("lr", 0.0, "a finite number above 0"),
    ("lr", -1e-3, "a finite number above 0"),
    ("lr", NAN, "a finite number above 0"),
    ("lr", INF, "a finite number above 0"),
    ("cyclic_factor", NAN, "a finite number above 0"),
    ("clip_gradients", 0.0, "a finite number above 0, or omit it"),
    ("clip_gradients", -1.0, "a finite number above 0, or omit it"),
    ("clip_gradients", INF, "a finite number above 0, or omit it"),
    ("weight_decay", -1e-4, "a finite number of at least 0"),
    ("weight_decay", NAN, "a finite number of at least 0"),
    ("head_weight_rate", -1.0, "a finite number of at least 0"),
    ("head_bias_rate", INF, "a finite number of at least 0"),
    ("average_epochs", -1.0, "a finite number of at least 0"),
    ("average_epochs", NAN, "a finite number of at least 0"),
    ("stem_rate", -5.0, "a finite number of at least 0"),
    ("momentum", 1.0, "a value in [0, 1)"),
    ("dropout", NAN, "a value in [0, 1)"),
    ("flip_probability", 1.5, "a value in [0, 1]"),
    ("freeze_stages", 6, "0 to 5"),
    ("milestones", (3000, 2000), "increasing steps from 1 on"),
    ("milestones", (0, 10), "increasing steps from 1 on"),
    ("milestones", (5, 5), "increasing steps from 1 on"),
    ("save_minutes", NAN, "a finite number above 0"),
    ("save_steps", 0, "1 or more, or omit it"),
    ("keep_checkpoints", 0, "1 or more"),
    ("workers", -1, "0 or more"),
    ("validation_clips", -1, "0 or more"),
    ("patience", 0, "1 or more, or omit it"),
    ("seed", -1, "0 to 2**64 - 1"),
    ("seed", 2**64, "0 to 2**64 - 1"),
]


@pytest.mark.parametrize(("name", "value", "rule"), WRONG)
def test_values_out_of_range_are_refused_in_one_line(name: str, value: Any, rule: str) -> None:
    flag = f"--{name.replace('_', '-')}"
    shown = " ".join(map(str, value)) if isinstance(value, tuple) else str(value)
    of_recipe = name in {item.name for item in fields(Recipe)}
    valid = TINY if of_recipe else TrainOptions(DataOptions(Path("set")))
    with pytest.raises(UserError) as caught:
        replace(valid, **{name: value})
    assert str(caught.value).startswith(f"{flag} ")
    assert f"{shown}; give {rule}" in str(caught.value)


def test_options_that_exclude_each_other_are_refused() -> None:
    with pytest.raises(UserError, match="--nesterov needs a --momentum above 0"):
        replace(TINY, nesterov=True, momentum=0.0)
    with pytest.raises(UserError, match="--patience needs a validation"):
        TrainOptions(DataOptions(Path("set")), patience=1, validation_clips=0)


def test_wrong_options_are_refused_on_the_command_line(
    sample: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    command = ["train", "--recipe", "sample", "--data", str(sample)]
    for option in (["--clip-gradients", "0"], ["--lr", "nan"], ["--seed", str(2**70)]):
        assert main([*command, *option, "--plan"]) == 2
        error = capsys.readouterr().err
        assert error.startswith(f"p3d: error: {option[0]} is ")
        assert error.count("\n") == 1


def test_validation_can_be_switched_off(
    sample: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    recipe = replace(TINY, epochs=1)
    assert run(options(sample, tmp_path, recipe, validation_clips=0)) == 0
    output = capsys.readouterr().out
    assert "--validation-clips 0: epochs are not validated" in output
    (epoch,) = log_lines(tmp_path, "epoch")
    assert "validation_top1" not in epoch
    best = load_model(tmp_path / BEST_FILE).state_dict()
    assert are_identical(best, weights(tmp_path))


def test_switching_validation_off_keeps_the_best_network(
    sample: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    recipe = replace(TINY, schedule="constant", batch_size=16)
    assert run(options(sample, tmp_path, replace(recipe, epochs=1))) == 0
    best = weights(tmp_path)
    longer = options(sample, tmp_path, replace(recipe, epochs=2), validation_clips=0, resume=True)
    capsys.readouterr()
    assert run(longer) == 0
    output = capsys.readouterr().out
    assert "no validation: best.safetensors stays the network of epoch 1\n" in output
    assert "best (epoch 1)" in output
    assert are_identical(load_model(tmp_path / BEST_FILE).state_dict(), best)
    assert are_identical(load_model(tmp_path / LAST_FILE).state_dict(), weights(tmp_path))


def test_classes_without_training_videos() -> None:
    def dataset(*labels: int) -> VideoDataset:
        records = tuple(VideoRecord(Path(f"{i}.avi"), label) for i, label in enumerate(labels))
        return VideoDataset(("run", "walk", "jump"), records)

    path = Path("set")
    assert check_classes(path, dataset(0, 1, 2, 0)) == ()
    (message,) = check_classes(path, dataset(0, 0, 2))
    assert message == "NO TRAINING VIDEOS: 1 of 3 classes: walk"
    with pytest.raises(UserError, match="training videos of only one class, jump, so"):
        check_classes(path, dataset(2, 2))


POSITIVE = st.floats(1e-30, 1e30)
NOT_NEGATIVE = st.floats(0, 1e30)
FRACTION = st.floats(0, 1, exclude_max=True)
COUNT = st.integers(1, 10**9)
TEXT = st.text(
    st.characters(exclude_categories=["Cs"], exclude_characters="\0"), min_size=1
).filter(lambda text: text != "None")
"""Values of text options; "None" stands for no value."""
LISTED = TEXT.filter(lambda text: not text.startswith("-"))
"""Values of a list; one that begins with a minus sign is read as an option."""
PATH = TEXT.map(lambda text: Path(f"a/{text}"))


def choice(literal: Any) -> st.SearchStrategy[Any]:
    return st.sampled_from(get_args(literal))


RECIPES = st.builds(
    Recipe,
    network=choice(Name),
    epochs=COUNT,
    max_steps=st.none() | COUNT,
    batch_size=COUNT,
    clips_per_step=st.none() | COUNT,
    clips_per_video=COUNT,
    lr=POSITIVE,
    momentum=FRACTION.filter(bool),
    nesterov=st.booleans(),
    weight_decay=NOT_NEGATIVE,
    clip_gradients=st.none() | POSITIVE,
    schedule=choice(Schedule),
    cyclic_factor=POSITIVE,
    cyclic_half_epochs=POSITIVE,
    milestones=st.sets(COUNT).map(lambda steps: tuple(sorted(steps))),
    warmup=FRACTION,
    dropout=FRACTION,
    norms=choice(NormPolicy),
    head_weight_rate=NOT_NEGATIVE,
    head_bias_rate=NOT_NEGATIVE,
    stem_rate=NOT_NEGATIVE,
    freeze_stages=st.integers(0, 5),
    zero_init_residuals=st.booleans(),
    augmentation=choice(Augmentation),
    flip_probability=FRACTION,
    num_frames=COUNT,
    frame_stride=COUNT,
    resize=st.tuples(COUNT, COUNT),
    crop=COUNT,
)
RULES = st.builds(
    SplitRule,
    group_pattern=st.none() | TEXT,
    test_groups=st.lists(LISTED).map(tuple),
    validation_groups=st.lists(LISTED).map(tuple),
    test_fraction=FRACTION,
    validation_fraction=FRACTION,
    split_seed=st.integers(-(10**9), 10**9),
    train_list=st.none() | PATH,
    validation_list=st.none() | PATH,
    test_list=st.none() | PATH,
)
COMPUTE = st.builds(
    DeviceOptions, device=choice(DeviceName), precision=choice(Precision), compile=st.booleans()
)
OPTIONS = st.builds(
    TrainOptions,
    data=st.builds(
        DataOptions, data=PATH, fold=st.integers(1, 3), allow_missing=st.booleans(), splits=RULES
    ),
    recipe=RECIPES,
    weights=st.none() | PATH,
    out=PATH,
    save_minutes=POSITIVE,
    save_steps=st.none() | COUNT,
    keep_checkpoints=COUNT,
    modality=choice(Modality),
    wiring=st.none() | choice(Wiring),
    variant=choice(Variant),
    compute=COMPUTE,
    sync_norms=st.booleans(),
    workers=st.integers(0, 99),
    seed=st.integers(0, 2**64 - 1),
    patience=st.none() | COUNT,
    validation_clips=COUNT,
    on_bad_video=choice(BadVideoPolicy),
    tensorboard=st.booleans(),
    track=st.sets(choice(TrackerName)).map(lambda names: tuple(sorted(names))),
)


@settings(max_examples=25, deadline=None)
@given(expected=OPTIONS)
def test_saved_configuration_restores_all_options(
    expected: TrainOptions, tmp_path_factory: pytest.TempPathFactory
) -> None:
    path = tmp_path_factory.mktemp("config") / "config.json"
    write_json(path, plain_options(expected))
    assert parse_options("train", [f"--config={path}"]) == expected


def test_relative_data_is_taken_from_where_the_run_was_started(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    started, elsewhere = tmp_path / "started", tmp_path / "elsewhere"
    for folder in (started / "videos", started / "run", elsewhere / "absent"):
        folder.mkdir(parents=True)
    write_json(started / "run" / "environment.json", {"folder": str(started)})
    for data, expected in (("videos", started / "videos"), ("absent", Path("absent"))):
        path = started / "run" / "config.json"
        write_json(path, plain_options(options(Path(data), started / "run")))
        for folder, found in ((started, Path(data)), (elsewhere, expected)):
            monkeypatch.chdir(folder)
            assert parse_options("train", [f"--config={path}"]).data.data == found
