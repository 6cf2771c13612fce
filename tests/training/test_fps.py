"""Training on frames that are picked at a rate, and runs from before there was one."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import pytest

from helpers.runs import TINY, are_identical, options, weights
from p3d.cli import main
from p3d.data.dataset import VideoDataset, VideoRecord
from p3d.errors import UserError
from p3d.preprocessing import default_preprocessing
from p3d.run_folder import BEST_FILE, CONFIG_FILE
from p3d.training.console import frames_seen
from p3d.training.options import config_arguments
from p3d.training.recipes import RECIPES
from p3d.training.train import run
from p3d.weights.loading import load_model

pytestmark = pytest.mark.usefixtures("narrow_networks")

# The videos of the sample set have 12 frames a second.
SAMPLE_RATE = 12.0


def test_recipes_with_a_rate() -> None:
    rates = {name: recipe.rate for name, recipe in RECIPES.items() if recipe.rate is not None}
    assert rates == {"scratch": 25.0, "finetune-small": 25.0}
    assert all(default_preprocessing(name).fps is None for name in ("rgb", "flow"))


@pytest.mark.parametrize("rate", ["0", "-25", "501"])
def test_wrong_rates_are_one_line(
    rate: str, sample: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["train", "--data", str(sample), "--fps", rate, "--plan"]) == 2
    [line] = capsys.readouterr().err.splitlines()
    assert line.startswith("p3d: error: --fps is ")
    assert line.endswith("; give a number above 0, at most 500, or native")


def test_the_own_rate_of_the_videos_gives_the_native_weights(
    sample: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    recipe = replace(TINY, epochs=1, max_steps=2)
    for name, fps in (("native", "native"), ("timed", SAMPLE_RATE), ("fast", 25.0)):
        assert run(options(sample, tmp_path / name, replace(recipe, fps=fps))) == 0
    assert "clips of 4 frames at 12 a second\n" in capsys.readouterr().out
    native, timed, fast = (weights(tmp_path / name) for name in ("native", "timed", "fast"))
    assert are_identical(native, timed)
    assert not are_identical(native, fast)
    model = load_model(tmp_path / "timed" / BEST_FILE)
    assert (model.preprocessing.fps, model.rates) == (SAMPLE_RATE, (SAMPLE_RATE, SAMPLE_RATE))
    assert load_model(tmp_path / "native" / BEST_FILE).preprocessing.fps is None


def test_a_run_from_before_the_option_goes_on_natively(
    sample: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    recipe = replace(TINY, epochs=1, max_steps=1)
    assert run(options(sample, tmp_path, recipe)) == 0
    config = json.loads((tmp_path / CONFIG_FILE).read_text())
    del config["recipe"]["fps"]
    (tmp_path / CONFIG_FILE).write_text(json.dumps(config))
    assert "--fps=native" in config_arguments(tmp_path / CONFIG_FILE)
    capsys.readouterr()
    longer = replace(recipe, epochs=2, max_steps=2, fps=25.0)
    assert run(options(sample, tmp_path, longer, resume=True)) == 0
    assert "--fps native: this run was started without a rate" in capsys.readouterr().out
    assert json.loads((tmp_path / CONFIG_FILE).read_text())["recipe"]["fps"] == "native"
    with pytest.raises(UserError, match=r"has --fps unset, not 25\.0"):
        run(options(sample, tmp_path, replace(longer, epochs=3, max_steps=3), resume=True))


def test_frames_of_an_epoch_are_counted_at_the_rate() -> None:
    recipe = replace(TINY, num_frames=4, clips_per_video=2, fps=25.0)
    records = [VideoRecord(Path("a"), 0, num_frames=80, fps=fps) for fps in (50.0, None)]
    assert frames_seen(VideoDataset(("a",), tuple(records[:1])), recipe) == 8 / 40
    assert frames_seen(VideoDataset(("a",), tuple(records)), recipe) is None
