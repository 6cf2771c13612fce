"""Options that cut timelines best, compared with cutting by each of them."""

from __future__ import annotations

from itertools import pairwise

import numpy as np
import pytest

from p3d.evaluation import timeline_fit
from p3d.evaluation.timeline_fit import Goal, candidates, fit_cut, goal_value
from p3d.inference.timeline.cut_options import CutOptions
from p3d.inference.timeline.timeline import Timeline
from p3d.scores.detection import Found

NAMES = ("walk", "run", "background")


def random_timeline(name: str, rng: np.random.Generator) -> tuple[Timeline, list[Found]]:
    """Return scores that follow true segments of one to three seconds, with noise."""
    edges = np.cumsum(rng.uniform(1, 3, 12))
    labels = rng.integers(0, 3, 11)
    truth = [
        Found(name, start, end, NAMES[label])
        for (start, end), label in zip(pairwise(edges.tolist()), labels.tolist(), strict=True)
        if NAMES[label] != "background"
    ]
    times = np.arange(0.1, edges[-1], 0.2)
    logits = rng.normal(0, 1.5, (len(times), 3))
    logits[:, 2] += 1
    for each in truth:
        inside = (times >= each.start) & (times < each.end)
        logits[inside, NAMES.index(each.label)] += 3
    scores = np.exp(logits) / np.exp(logits).sum(1, keepdims=True)
    return Timeline(f"films/{name}.mp4", times, scores, NAMES, float(edges[-1])), truth


def value_of(
    goal: Goal, timelines: list[Timeline], truth: list[Found], options: CutOptions
) -> float:
    """Cut by the class that live streams are cut by."""
    found = [
        Found(str(timeline.path)[6:-4], *segment)
        for timeline in timelines
        for segment in timeline.cut(options).segments
    ]
    return goal_value(goal, found, truth)


@pytest.mark.parametrize("goal", ["map", "f1"])
@pytest.mark.parametrize("seed", range(2))
def test_best_of_all_is_found(goal: Goal, seed: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(timeline_fit, "_HIGHS", (0.2, 0.5, 0.8))
    monkeypatch.setattr(timeline_fit, "_LOWS", (0.5, 1.0))
    monkeypatch.setattr(timeline_fit, "_GAPS", (0.0, 0.25))
    rng = np.random.default_rng(seed)
    pairs = [random_timeline(name, rng) for name in "ab"]
    timelines, truth = [pair[0] for pair in pairs], [each for pair in pairs for each in pair[1]]
    counted: list[int] = []
    fit = fit_cut(timelines, truth, goal, counted.append)
    options = candidates(truth)
    assert fit.tried == sum(counted) == len(options) == 1 + 5 * 3 * 2 * 2 * 2
    values = {cut: value_of(goal, timelines, truth, cut) for cut in options}
    assert fit.value == pytest.approx(max(values.values()))
    assert values[fit.cut] == pytest.approx(fit.value)
    assert fit.value > values[CutOptions()]


def test_nothing_is_better_than_the_defaults_where_all_are_equal() -> None:
    times, scores = np.arange(0.5, 10), np.zeros((10, 3))
    scores[2:5, 0] = 1.0
    timeline = Timeline("films/a.mp4", times, scores, NAMES, 10.0)
    assert fit_cut([timeline], [Found("b", 2, 5, "walk")], "f1").cut == CutOptions()
    assert fit_cut([timeline], [Found("a", 2, 5, "walk")], "f1").value == 1.0


def test_lengths_follow_the_truth() -> None:
    options = candidates([Found("a", 0, 60, "walk"), Found("a", 70, 130, "run")])
    assert {cut.smooth for cut in options} == {0, 1.0, 7.5, 15, 30, 60}
    for cut in options:
        cut.check()
