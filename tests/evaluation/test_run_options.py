"""Arguments that evaluate a training run."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import pytest

from helpers.runs import options as run_options
from p3d.cli.parse import parse_options
from p3d.data.layouts import DataOptions
from p3d.data.splits import SplitRule
from p3d.errors import UserError
from p3d.evaluation.run_options import data_of_runs, run_arguments
from p3d.system.files import write_json
from p3d.system.options import plain_options

pytestmark = pytest.mark.usefixtures("narrow_networks")


def write_run(folder: Path, data: DataOptions, *, started: Path | None = None) -> Path:
    """Write the config.json of a run and, if given, the folder where it was started."""
    folder.mkdir(exist_ok=True)
    options = replace(run_options(data.data, folder), data=data)
    write_json(folder / "config.json", plain_options(options))
    if started is not None:
        write_json(folder / "environment.json", {"torch": "2.13.0", "folder": str(started)})
    return folder


def test_data_and_split_rule_are_those_of_the_run(tmp_path: Path) -> None:
    rule = SplitRule(
        group_pattern="^([^_]+)_",
        test_groups=("ira", "ido"),
        validation_groups=("eli",),
        split_seed=3,
    )
    data = DataOptions(tmp_path / "my videos", allow_missing=True, splits=rule)
    run = write_run(tmp_path / "run", data)
    options = parse_options("eval", [*run_arguments(run), "--split", "validation"])
    assert options.data == data
    assert options.weights == run / "best.safetensors"
    assert (options.run, options.out, options.split) == ((run,), None, "validation")


def test_options_given_after_those_of_the_run_take_precedence(tmp_path: Path) -> None:
    run = write_run(tmp_path / "run", DataOptions(tmp_path, fold=2))
    arguments = [*run_arguments(run), "--data", "moved", "--fold", "3", "--weights", "last.pt"]
    options = parse_options("eval", arguments)
    assert options.data == DataOptions(Path("moved"), fold=3)
    assert options.weights == Path("last.pt")


def test_relative_paths_hold_in_another_folder(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    started = tmp_path / "started"
    (started / "set").mkdir(parents=True)
    (started / "train.txt").touch()
    rule = SplitRule(train_list=Path("train.txt"), test_list=Path("absent.txt"))
    run = write_run(tmp_path / "run", DataOptions(Path("set"), splits=rule), started=started)
    monkeypatch.chdir(tmp_path)
    data = parse_options("eval", run_arguments(run)).data
    assert data.data == started / "set"
    assert data.splits.train_list == started / "train.txt"
    assert data.splits.test_list == Path("absent.txt")


def test_earlier_runs_do_not_say_where_they_were_started(tmp_path: Path) -> None:
    run = write_run(tmp_path / "run", DataOptions(Path("set")))
    assert parse_options("eval", run_arguments(run)).data.data == Path("set")


def test_several_runs_keep_their_own_data_and_take_what_the_command_line_changes(
    tmp_path: Path,
) -> None:
    rule = SplitRule(test_groups=("ira", "ido"), train_list=Path("train.txt"))
    first = DataOptions(tmp_path / "set", fold=1, splits=rule)
    second = replace(first, fold=2, splits=replace(rule, test_groups=("eli",), split_seed=7))
    runs = [
        write_run(tmp_path / name, data)
        for name, data in (("one", first), ("two", second), ("three", replace(first, fold=3)))
    ]
    assert data_of_runs(runs, first) == [first, second, replace(first, fold=3)]
    words = ["--run", *map(str, runs), "--data", "moved", "--test-fraction", "0.5"]
    options = parse_options("eval", [*run_arguments(tuple(runs)), *words])
    assert options.run == tuple(runs)
    moved = [
        replace(data, data=Path("moved"), splits=replace(data.splits, test_fraction=0.5))
        for data in (first, second, replace(first, fold=3))
    ]
    assert data_of_runs(options.run, options.data) == moved


def test_run_option_without_a_folder_is_an_error() -> None:
    with pytest.raises(UserError, match="--run needs the folder of a training run"):
        run_arguments(())


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (None, "run: has no config.json, so it is not a training run; give the --out of p3d train"),
        ("{", "config.json: cannot be read"),
        ("[]", "config.json: is not the config.json of a training run"),
        (json.dumps({"recipe": {}}), "config.json: does not say which data the run used"),
    ],
)
def test_folder_without_a_usable_config_is_an_error(
    content: str | None, message: str, tmp_path: Path
) -> None:
    run = tmp_path / "run"
    run.mkdir()
    if content is not None:
        (run / "config.json").write_text(content)
    with pytest.raises(UserError, match=message):
        run_arguments(run)
