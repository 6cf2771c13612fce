"""`p3d compare`: differences between networks on the same videos, and whether they are chance."""

from __future__ import annotations

import sys
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from p3d.errors import UserError, printable
from p3d.evaluation.metrics import describe_scores, read_named
from p3d.scores.alignment import Named, align
from p3d.scores.comparison import Comparison, compare
from p3d.scores.figures import labeled_scores
from p3d.scores.resampling import Bootstrap, smallest_p
from p3d.scores.tables import describe_intervals, format_interval
from p3d.system.markers import Positional
from p3d.system.options import check_least
from p3d.system.text import format_percent, format_table, json_line

_TITLES = {"top1": "top-1", "mean_class": "mean class", "loss": "log loss"}


@dataclass(frozen=True)
class CompareOptions:
    """Compare networks on the same videos: the first one with each of the others."""

    scores: Positional[tuple[Path, ...]]
    """Two or more folders that p3d eval wrote to, or their scores.npz."""
    resamples: int = 2000
    """Draws of the bootstrap."""
    seed: int = 0
    """Seed of the bootstrap and of the permutation test."""
    json: bool = False
    """Print one JSON object for each comparison instead of tables."""


def run(options: CompareOptions) -> None:
    """Run `p3d compare`.

    Raises:
        UserError: There are fewer than two files, or their classes or videos differ.
    """
    if len(options.scores) < 2:
        raise UserError("give two or more folders of scores; p3d metrics is for one")
    check_least(1, resamples=options.resamples)
    check_least(0, seed=options.seed)
    bootstrap = Bootstrap(options.resamples, options.seed)
    first, *others = read_named(options.scores)
    first = Named(first.name, labeled_scores(first.scores, first.name))
    aligned = [
        Named(name, align(first, Named(name, labeled_scores(scores, name))))
        for name, scores in others
    ]
    found = [compare(first.scores, each.scores, bootstrap) for each in aligned]
    if options.json:
        for other, comparison in zip(aligned, found, strict=True):
            sys.stdout.write(json_line(_plain(first, other, comparison, bootstrap)) + "\n")
        return
    print(f"first: {printable(first.name)}: {describe_scores(first.scores)}")
    for other, comparison in zip(aligned, found, strict=True):
        print("\n" + _table(other, comparison))
    print("\n" + _notes(found, bootstrap))


def _table(second: Named, comparison: Comparison) -> str:
    rows = [
        (
            _TITLES[name],
            _value(name, each.first),
            _value(name, each.second),
            _value(name, each.difference, sign=True),
            format_interval(each.interval, is_percent=name != "loss"),
            f"{each.p_value:.4f}",
        )
        for name, each in comparison.differences.items()
    ]
    header = ("figure", "first", "second", "difference", "95% interval", "p")
    return "\n".join(
        [
            f"second: {printable(second.name)}: {describe_scores(second.scores)}",
            format_table(header, rows),
            f"right videos: in both {comparison.both_right:,}, only first "
            f"{comparison.first_only:,}, only second {comparison.second_only:,}, in neither "
            f"{comparison.both_wrong:,}",
        ]
    )


def _value(name: str, value: float, *, sign: bool = False) -> str:
    text = f"{value:.4f}" if name == "loss" else format_percent(value)
    return f"+{text}" if sign and value > 0 else text


def _notes(found: list[Comparison], bootstrap: Bootstrap) -> str:
    """Return how intervals and p-values were computed."""
    groups = found[0].groups
    lines = [
        describe_intervals(groups, bootstrap),
        f"p: two-sided permutation test, signs of {groups.count:,} groups; at least "
        f"{smallest_p(groups.count):.2g}",
    ]
    if len(found) > 1:
        lines.append(
            f"p is not corrected for {len(found)} comparisons; multiply it by {len(found)}"
        )
    return "\n".join(lines)


def _plain(
    first: Named, second: Named, comparison: Comparison, bootstrap: Bootstrap
) -> dict[str, Any]:
    """Return a comparison as plain values."""
    values = asdict(comparison)
    del values["groups"]
    for name, each in comparison.differences.items():
        values["differences"][name]["difference"] = each.difference
    return {
        "first": first.name,
        "second": second.name,
        "videos": len(first.scores.paths),
        "groups": comparison.groups.count,
        "resamples": bootstrap.resamples,
        "seed": bootstrap.seed,
        **values,
    }
