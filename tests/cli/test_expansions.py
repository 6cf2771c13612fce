"""Options that stand for others, and runs that go on without repeating their options."""

from __future__ import annotations

import sys
from dataclasses import replace
from pathlib import Path
from types import ModuleType

import pytest
import torch

from helpers.runs import TINY, copy_set, logged_steps, options
from p3d.cli import COMMANDS, Expansion, main
from p3d.cli.parse import parse_options
from p3d.errors import UserError
from p3d.run_folder import CONFIG_FILE
from p3d.system.files import write_json
from p3d.system.options import plain_options
from p3d.training.train import run

pytestmark = pytest.mark.usefixtures("narrow_networks")


def test_a_run_goes_on_without_its_options(sample: Path, tmp_path: Path) -> None:
    data, out = tmp_path / "set", tmp_path / "run"
    copy_set(sample, data)
    assert run(options(data, out, replace(TINY, epochs=1, max_steps=1))) == 0
    assert main(["train", "--resume", "--out", str(out), "--max-steps", "2"]) == 0
    assert logged_steps(out) == [1, 2]
    assert parse_options("train", ["--config", str(out / CONFIG_FILE)]).recipe.max_steps == 2


def test_the_folder_given_is_the_one_that_goes_on(tmp_path: Path) -> None:
    """The configuration of a run that was moved names its former folder."""
    before = options(tmp_path / "set", tmp_path / "former", save_steps=7, resume=True)
    (tmp_path / "moved").mkdir()
    write_json(tmp_path / "moved" / CONFIG_FILE, plain_options(before))
    now = parse_options("train", ["--resume", "--out", str(tmp_path / "moved"), "--lr=0.5"])
    assert now.out == tmp_path / "moved"
    assert (now.data, now.save_steps, now.resume) == (before.data, 7, True)
    assert (now.recipe.lr, now.recipe.crop) == (0.5, TINY.crop)


def test_a_configuration_and_a_recipe_exclude_each_other(tmp_path: Path) -> None:
    write_json(tmp_path / CONFIG_FILE, plain_options(options(tmp_path, tmp_path)))
    for first in (["--config", str(tmp_path / CONFIG_FILE)], ["--resume", "--out", str(tmp_path)]):
        with pytest.raises(
            UserError, match=r"config\.json contains a recipe; give --.* or --recipe, not both"
        ):
            parse_options("train", [*first, "--recipe", "sample"])


def test_an_error_in_a_configuration_names_it(tmp_path: Path) -> None:
    path = tmp_path / CONFIG_FILE
    write_json(path, plain_options(options(tmp_path, tmp_path)) | {"speed": 3})
    with pytest.raises(UserError, match=rf"--config {path}: p3d train has no option --speed"):
        parse_options("train", ["--config", str(path)])


def test_any_command_can_have_an_option_that_stands_for_others(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    module = ModuleType("stand_in")
    module.arguments = lambda paths: ["--data", "set", f"--weights={paths[0]}", "--clips", "3"]  # type: ignore[attr-defined]
    monkeypatch.setitem(sys.modules, "stand_in", module)
    expansion = Expansion("--run", "stand_in:arguments", "Use a run's data and weights.")
    monkeypatch.setitem(COMMANDS, "eval", COMMANDS["eval"]._replace(expansions=(expansion,)))
    answer = parse_options("eval", ["--clips", "5", "--run", "runs/a"])
    assert (answer.data.data, answer.weights, answer.clips) == (Path("set"), Path("runs/a"), 5)


def test_threads_of_the_network_are_limited(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    threads: list[int] = []
    monkeypatch.setattr(torch, "set_num_threads", threads.append)
    for command in ("train", "eval"):
        flags = ["--data", str(tmp_path / "absent"), "--threads", "3"]
        assert main([command, *flags, *["--weights=absent"] * (command == "eval")]) == 2
    assert main(["predict", "--weights", "absent", "--threads", "3", "a.avi"]) == 2
    assert main(["bench", "train", "--device", "cpu", "--threads", "3", "--crop", "1"]) == 2
    assert threads == [3] * 4
