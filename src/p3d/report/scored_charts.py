"""Charts of an evaluation's probabilities: reliability, and accuracy against coverage."""

from __future__ import annotations

from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import PercentFormatter

from p3d.report.figures import BLUE, EDGE, ORANGE, TEAL, Chart, figure_style, make_chart
from p3d.report.render import percent
from p3d.scores.coverage import Coverage
from p3d.scores.figures import Figures


def draw_reliability(figures: Figures, calibrated: Figures | None) -> Chart:
    """Draw how often answers are right against how probable they are, with and without temperature.

    Args:
        figures: Figures of the network's own logits.
        calibrated: Figures with a temperature; None if none is known.
    """
    shown = [("without temperature", figures, BLUE, "o")]
    if calibrated is not None:
        shown.append((f"temperature {calibrated.temperature:.3g}", calibrated, ORANGE, "s"))
    with figure_style():
        figure, axes = _axes()
        axes.plot([0, 1], [0, 1], "--", color=EDGE, linewidth=1, label="perfect")
        for label, each, color, marker in shown:
            table = each.reliability
            x, y = [bin.confidence for bin in table], [bin.accuracy for bin in table]
            sizes = [12 + 220 * bin.videos / each.accuracy.videos for bin in table]
            axes.plot(x, y, color=color, linewidth=1.2, label=label)
            axes.scatter(x, y, sizes, color=color, marker=marker, alpha=0.75, linewidths=0)
        axes.set_xlabel("mean probability of the answers", loc="right")
        axes.legend(loc="lower left", bbox_to_anchor=(-0.02, 1.0), ncols=3)
        return make_chart(
            figure,
            "Reliability",
            f"Fraction of right answers, by their probability in {figures.bins} bins; larger marks "
            "have more videos. Below the diagonal, the network is too certain.",
            "; ".join(f"{label}: {_describe_bins(each)}" for label, each, *_ in shown),
        )


def draw_coverage(figures: Figures) -> Chart:
    """Draw accuracy and threshold against the part of the videos that is answered."""
    curve = figures.coverage_curve
    x = [each.coverage for each in curve]
    with figure_style():
        figure, axes = _axes()
        axes.plot(x, [each.accuracy for each in curve], color=BLUE, label="right answers")
        axes.plot(x, [each.threshold for each in curve], ":", color=TEAL, label="threshold")
        axes.set_xlabel("part of the videos that gets an answer", loc="right")
        axes.legend(loc="lower left", bbox_to_anchor=(-0.02, 1.0), ncols=3)
        return make_chart(
            figure,
            "Coverage",
            "Right answers among those at least as probable as the threshold; the others are "
            "“unknown”.",
            "; ".join(map(_describe_row, figures.coverage)),
        )


def _axes() -> tuple[Figure, Axes]:
    """Return an empty figure whose axes are fractions from 0 to 1."""
    figure = Figure(figsize=(5.4, 3.6), layout="constrained")
    axes = figure.add_subplot()
    for axis in (axes.xaxis, axes.yaxis):
        axis.set_major_formatter(PercentFormatter(1))
    axes.set(xlim=(0, 1.03), ylim=(0, 1.05))
    return figure, axes


def _describe_bins(figures: Figures) -> str:
    bins = (f"{percent(b.accuracy)} right at {percent(b.confidence)}" for b in figures.reliability)
    return f"calibration error {percent(figures.calibration_error)}, {', '.join(bins)}"


def _describe_row(row: Coverage) -> str:
    shown = percent(row.accuracy), percent(row.coverage)
    return f"threshold {row.threshold:.3f}: {shown[0]} right of {shown[1]}"
