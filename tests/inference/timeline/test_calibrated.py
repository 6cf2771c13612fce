"""Where the options that cut segments come from."""

from __future__ import annotations

import pytest

from p3d.errors import UserError
from p3d.inference.timeline.calibrated import CutArguments, calibrated_cut, kept_values
from p3d.inference.timeline.cut_options import CutOptions
from p3d.weights.calibration import check_calibration

KEPT = CutOptions(smooth=0, high=0.8, low=0.2, shortest=0, merge=0)


def test_options_win_over_the_weights_and_these_over_the_defaults() -> None:
    kept = check_calibration(kept_values(KEPT))
    assert calibrated_cut(kept) == KEPT
    assert CutArguments().resolve({"temperature": 2.0}) == (CutOptions(), "default")
    assert CutArguments().resolve(kept) == (KEPT, "calibrated")
    mixed = CutArguments(high=0.7, merge=2)
    expected = CutOptions(smooth=0, high=0.7, low=0.2, shortest=0, merge=2)
    assert mixed.resolve(kept) == (expected, "--high, --merge given, the rest calibrated")
    assert mixed.resolve({})[1] == "--high, --merge given, the rest default"
    assert CutArguments(1, 0.5, 0.3, 0.5, 0.5).resolve(kept) == (CutOptions(), "given")


@pytest.mark.parametrize(
    ("given", "usual", "expected"),
    [
        ({"high": 0.25}, CutOptions(), (0.25, 0.25)),
        ({"high": 0.4}, CutOptions(), (0.4, 0.3)),
        ({"low": 0.6}, CutOptions(), (0.6, 0.6)),
        ({"low": 0.1}, CutOptions(), (0.5, 0.1)),
        ({"high": 0.25}, KEPT, (0.25, 0.2)),
        ({"high": 0.1}, KEPT, (0.1, 0.1)),
        ({"low": 0.9}, KEPT, (0.9, 0.9)),
        ({"high": 0.9, "low": 0.1}, KEPT, (0.9, 0.1)),
    ],
)
def test_a_threshold_that_is_not_given_follows_the_other(
    given: dict[str, float], usual: CutOptions, expected: tuple[float, float]
) -> None:
    arguments = CutArguments(**given)
    arguments.check()
    cut, origin = arguments.resolve({} if usual == CutOptions() else kept_values(usual))
    assert (cut.high, cut.low) == expected
    other = "low" if "high" in given else "high"
    follows = len(given) == 1 and expected[0] == expected[1]
    assert (f"{other} follows" in origin) == follows
    if usual == CutOptions():
        assert CutOptions(**given) == cut


def test_thresholds_that_contradict_each_other_are_one_line() -> None:
    for wrong in (CutArguments(high=2), CutArguments(low=0), CutArguments(low=0.7, high=0.6)):
        with pytest.raises(UserError, match="give probabilities"):
            wrong.check()


@pytest.mark.parametrize("change", [{"timeline_high": 0.1}, {"timeline_merge": None}])
def test_damaged_values_are_one_line(change: dict[str, float | None]) -> None:
    values = {k: v for k, v in (kept_values(KEPT) | change).items() if v is not None}
    with pytest.raises(UserError, match="calibration of timelines is damaged"):
        calibrated_cut(values)
