"""The recipe `quick`: values fitted to a time budget."""

from __future__ import annotations

import json
import re
from dataclasses import asdict, replace
from pathlib import Path

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from helpers.runs import are_identical, options, weights
from p3d.cli import main
from p3d.errors import UserError
from p3d.run_folder import CONFIG_FILE
from p3d.training import costs as costs_module
from p3d.training.budget import MARGIN, choose, describe, shapes_of
from p3d.training.costs import Costs
from p3d.training.recipes import FITTED, QUICK, QuickRecipe, Recipe
from p3d.training.train import run

pytestmark = pytest.mark.usefixtures("narrow_networks")


@st.composite
def machines(draw: st.DrawFn) -> Costs:
    """Draw a machine, on which larger clips cost more, and a data set."""
    clip, pixel = draw(st.floats(1e-4, 2.0)), draw(st.floats(0.0, 1e-5))
    shapes = {*shapes_of(QUICK), *shapes_of(replace(QUICK, crop=100, num_frames=0))}
    return Costs(
        {shape: clip + pixel * shape.pixels for shape in shapes},
        videos=draw(st.integers(1, 20_000)),
        scored_clips=draw(st.integers(0, 4000)),
        frames=draw(st.integers(1, 300)),
    )


recipes = st.builds(
    lambda changes, minutes: replace(QUICK, **changes, minutes=minutes),
    st.fixed_dictionaries(
        {},
        optional={
            "crop": st.just(100),
            "epochs": st.integers(1, 20),
            "clips_per_video": st.integers(1, 9),
            "frame_stride": st.integers(1, 4),
            "resize": st.just((120, 130)),
            "max_steps": st.integers(1, 5000),
            "clips_per_step": st.integers(1, 64),
        },
    ),
    st.floats(0.5, 600),
)


@settings(deadline=None, max_examples=60)
@given(recipe=recipes, costs=machines())
def test_run_ends_within_its_budget_and_keeps_what_was_given(
    recipe: QuickRecipe, costs: Costs
) -> None:
    try:
        chosen = choose(recipe, costs)
    except UserError:
        return
    assert type(chosen) is Recipe
    assert costs.seconds(chosen) <= 60 * MARGIN * recipe.minutes * (1 + 1e-9)
    for name, value in asdict(chosen).items():
        if name in FITTED and name in recipe.open_fields:
            assert value not in (0, (0, 0))
        elif name != "max_steps":
            assert value == getattr(recipe, name)
    assert recipe.max_steps is None or (chosen.max_steps or 0) <= recipe.max_steps
    assert describe(recipe, chosen, costs).startswith(f"quick: {chosen.crop} px")


@settings(deadline=None, max_examples=60)
@given(recipe=recipes, costs=machines(), factor=st.floats(1, 10))
def test_a_larger_budget_never_gives_smaller_clips_or_fewer(
    recipe: QuickRecipe, costs: Costs, factor: float
) -> None:
    try:
        small = choose(recipe, costs)
    except UserError:
        return
    large = choose(replace(recipe, minutes=recipe.minutes * factor), costs)
    sizes = [chosen.num_frames * chosen.crop**2 for chosen in (small, large)]
    assert sizes[0] <= sizes[1]
    if sizes[0] == sizes[1]:
        assert costs.clips(small) <= costs.clips(large)


@settings(deadline=None, max_examples=60)
@given(recipe=recipes, costs=machines())
def test_refused_budget_names_the_least_possible(recipe: QuickRecipe, costs: Costs) -> None:
    try:
        choose(recipe, costs)
    except UserError as error:
        found = re.search(r"give --minutes (\d+)$", str(error))
        assert found is not None
        least = int(found[1])
        assert least > recipe.minutes
        choose(replace(recipe, minutes=least), costs)
        with pytest.raises(UserError, match=f"give --minutes {least}$"):
            choose(replace(recipe, minutes=max(0.01, least - 1)), costs)


def test_time_goes_to_steps_first_then_to_larger_clips_then_to_epochs() -> None:
    costs = Costs({shape: shape.pixels * 1e-6 for shape in shapes_of(QUICK)}, 60, 10, 50)
    chosen = [choose(replace(QUICK, minutes=m), costs) for m in (2, 5, 30, 300)]
    assert [(r.num_frames, r.crop) for r in chosen] == [(8, 64), (8, 80), (16, 112), (16, 112)]
    assert [r.frame_stride for r in chosen] == [4, 4, 2, 2]
    assert chosen[-1].epochs > 5 * chosen[-2].epochs
    assert chosen[1].resize == (91, 121)


def test_large_set_gets_part_of_an_epoch() -> None:
    costs = Costs({shape: shape.pixels * 1e-6 for shape in shapes_of(QUICK)}, 100_000, 0, 200)
    chosen = choose(QUICK, costs)
    assert (chosen.epochs, chosen.clips_per_video) == (1, 1)
    assert chosen.max_steps is not None
    assert f" {chosen.max_steps:,} steps: about " in describe(QUICK, chosen, costs)


def test_few_steps_that_are_given_leave_time_for_larger_clips() -> None:
    costs = Costs({shape: shape.pixels * 1e-6 for shape in shapes_of(QUICK)}, 60, 10, 50)
    sizes = [choose(replace(QUICK, minutes=5, max_steps=n), costs).crop for n in (100, 5000)]
    assert sizes == [112, 80]


@pytest.mark.parametrize("changes", [{"minutes": 0}, {"epochs": -1}, {"crop": -1}, {"lr": 0}])
def test_invalid_values_are_refused(changes: dict[str, float]) -> None:
    with pytest.raises(UserError, match=r"is (0|-1).*; give "):
        replace(QUICK, **changes)  # type: ignore[arg-type]


def test_bench_refuses_the_recipe(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["bench", "train", "--recipe", "quick"]) == 2
    assert "has no sizes before it sees a data set" in capsys.readouterr().err


def test_run_is_the_run_of_the_chosen_values_and_resumes_with_them(
    sample: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.setattr(costs_module, "TIMED_SECONDS", 0.0)
    tiny = {"num_frames": 4, "crop": 16, "batch_size": 8, "max_steps": 2}
    quick = replace(QUICK, **tiny, epochs=1, minutes=60.0, flip_probability=0.0)  # type: ignore[arg-type]
    assert run(options(sample, tmp_path / "quick", quick)) == 0
    assert "quick: 16 px, 4 frames at stride 5" in capsys.readouterr().out
    saved = json.loads((tmp_path / "quick" / CONFIG_FILE).read_text())["recipe"]
    assert "minutes" not in saved
    plain = Recipe(**saved | {"resize": tuple(saved["resize"]), "milestones": (3000, 6000)})
    torch.manual_seed(1)
    assert run(options(sample, tmp_path / "plain", plain)) == 0
    first = weights(tmp_path / "quick")
    assert are_identical(first, weights(tmp_path / "plain"))

    def fail(*_: object) -> None:
        raise AssertionError("the values are chosen once")

    monkeypatch.setattr("p3d.training.budget.measure", fail)
    with pytest.raises(UserError, match="already holds a run; add --resume"):
        run(options(sample, tmp_path / "quick", quick))
    longer = replace(quick, max_steps=3)
    assert run(options(sample, tmp_path / "quick", longer, resume=True)) == 0
    assert not are_identical(first, weights(tmp_path / "quick"))


def test_resuming_without_the_chosen_values_says_what_to_give(sample: Path, tmp_path: Path) -> None:
    (tmp_path / CONFIG_FILE).write_text('{"recipe": {"epochs": 3}}')
    with pytest.raises(UserError, match=r"does not say what was chosen .* give its --epochs, "):
        run(options(sample, tmp_path, QUICK, resume=True))


def test_wrong_weights_are_found_before_the_measurement(
    sample: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("p3d.training.budget.measure", lambda *_: pytest.fail("has begun"))
    wrong = replace(options(sample, tmp_path / "run", QUICK), weights=tmp_path / "absent.pth")
    with pytest.raises(UserError, match=r"absent.pth: cannot be read"):
        run(wrong)
