"""The curves of a training run, drawn from its log (needs matplotlib)."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import NamedTuple

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import FuncFormatter, MaxNLocator, NullLocator, PercentFormatter
from numpy.typing import NDArray

from p3d.report.figures import INK, Chart, figure_style, make_chart
from p3d.report.record import Line, RunRecord, column, number

TRAINING, VALIDATION, OTHER = "#2f6db5", "#d9730d", "#4c6b68"
_MOST_POINTS = 400

Values = NDArray[np.float64]


def draw_curves(record: RunRecord) -> list[Chart]:
    """Every curve that the log has numbers for."""
    steps, epochs = record.steps, record.epochs
    drawn: list[Chart | None] = []
    with figure_style():
        drawn += [_loss(steps, epochs), _accuracy(epochs)]
        drawn += [_step_curve(steps, epochs, curve) for curve in _STEP_CURVES]
    return [chart for chart in drawn if chart is not None]


def _loss(steps: Sequence[Line], epochs: Sequence[Line]) -> Chart | None:
    figure, axes = _figure()
    raw = column(steps, "loss") if steps else column(epochs, "train_loss")
    held_out = column(epochs, "validation_loss")
    told = [
        _draw_smoothed(axes, *raw, TRAINING, "training"),
        _draw_points(axes, *held_out, VALIDATION, "validation"),
    ]
    if not any(told):
        return None
    _cut_spikes(axes, np.concatenate([raw[1], held_out[1]]))
    _finish(axes, legend=True)
    caption = "Cross-entropy: of every step (faint), smoothed, and of the validation list."
    return make_chart(figure, "Loss", caption, told)


def _accuracy(epochs: Sequence[Line]) -> Chart | None:
    figure, axes = _figure()
    told = [
        _draw_points(axes, *_by_epoch(epochs, f"{part}_{top}"), colour, label, line)
        for part, top, colour, label, line in (
            ("train", "top1", TRAINING, "training top-1", "-"),
            ("train", "top5", TRAINING, "top-5", ":"),
            ("validation", "top1", VALIDATION, "validation top-1", "-"),
            ("validation", "top5", VALIDATION, "top-5", ":"),
        )
    ]
    if not any(told):
        return None
    axes.set_ylim(0, 1.03)
    axes.yaxis.set_major_formatter(PercentFormatter(1, decimals=0))
    _finish(axes, unit="epoch", legend=True)
    caption = "Share of right answers; training's on augmented clips, while it went on."
    return make_chart(figure, "Accuracy", caption, told)


def _by_epoch(epochs: Sequence[Line], name: str) -> tuple[Values, Values]:
    """Values against the epoch's number rather than its step."""
    return column([{**line, "step": number(line, "epoch")} for line in epochs], name)


def _percent(axes: Axes) -> None:
    axes.set_ylim(0, max(0.05, min(1.0, 1.15 * axes.dataLim.ymax)))
    axes.yaxis.set_major_formatter(PercentFormatter(1, decimals=None))


def _from_zero(axes: Axes) -> None:
    axes.set_ylim(0, 1.12 * axes.dataLim.ymax or 1)
    axes.yaxis.set_major_formatter(_PLAIN)


def _powers_of_two(axes: Axes) -> None:
    axes.set_yscale("log", base=2)
    axes.yaxis.set_major_formatter(_PLAIN)


def _wide_range(axes: Axes) -> None:
    if axes.dataLim.ymin > 0 and axes.dataLim.ymax > 50 * axes.dataLim.ymin:
        axes.set_yscale("log")
        axes.yaxis.set_major_formatter(_PLAIN)
        axes.yaxis.set_minor_locator(NullLocator())
    else:
        _from_zero(axes)


_PLAIN = FuncFormatter(lambda value, _: f"{value:,g}")


class _StepCurve(NamedTuple):
    """A number of every step: its name in the log, and how it is shown."""

    name: str
    title: str
    caption: str
    finish: Callable[[Axes], None] = _from_zero
    noisy: bool = True
    factor: float = 1.0


_STEP_CURVES = (
    _StepCurve("lr", "Learning rate", "The base rate at every step.", noisy=False),
    _StepCurve("clips_per_second", "Throughput", "Training clips a second, over all devices."),
    _StepCurve(
        "data_wait",
        "Waiting for data",
        "Share of a step in which the device waited for the loader.",
        _percent,
    ),
    _StepCurve(
        "gradient_norm", "Gradient norm", "L2 norm over all weights, before clipping.", _wide_range
    ),
    _StepCurve(
        "scale",
        "Loss scale",
        "fp16: halved when a gradient overflows.",
        _powers_of_two,
        noisy=False,
    ),
    _StepCurve(
        "memory_mib", "Memory", "GiB on a device, the most so far.", noisy=False, factor=1 / 1024
    ),
)


def _step_curve(steps: Sequence[Line], epochs: Sequence[Line], curve: _StepCurve) -> Chart | None:
    figure, axes = _figure(2.1)
    x, y = column(steps, curve.name)
    if not len(x):
        x, y = column(epochs, curve.name)
    y = y * curve.factor
    if curve.noisy:
        told = _draw_smoothed(axes, x, y, OTHER, curve.title)
    else:
        told = _draw_points(axes, x, y, OTHER, curve.title)
    if not told:
        return None
    curve.finish(axes)
    _finish(axes)
    return make_chart(figure, curve.title, curve.caption, [told])


def _figure(height: float = 2.7) -> tuple[Figure, Axes]:
    figure = Figure(figsize=(5.4, height), layout="constrained")
    return figure, figure.add_subplot()


def _draw_smoothed(axes: Axes, x: Values, y: Values, colour: str, label: str) -> str:
    """A curve with much noise: faint as it is, and smoothed. Returns what it shows in words."""
    if len(x) < 25:
        return _draw_points(axes, x, y, colour, label)
    axes.plot(*_thinned(x, y), color=colour, alpha=0.28, linewidth=0.8)
    axes.plot(*_every(x, _smooth(y)), color=colour, label=label)
    return _in_words(x, y, label)


def _draw_points(axes: Axes, x: Values, y: Values, colour: str, label: str, line: str = "-") -> str:
    """A curve, with its points where they are few. Returns what it shows in words."""
    told = _in_words(x, y, label)
    if told:
        marker = "o" if len(x) <= 40 else None
        axes.plot(*_thinned(x, y), line, color=colour, label=label, marker=marker)
    return told


def _in_words(x: Values, y: Values, label: str) -> str:
    """What a curve shows; nothing where it has no number."""
    known = np.isfinite(x) & np.isfinite(y)
    if not known.any():
        return ""
    first, last = np.flatnonzero(known)[[0, -1]]
    return (
        f"{label}: {y[first]:.4g} at {x[first]:g}, {y[last]:.4g} at {x[last]:g}, "
        f"lowest {y[known].min():.4g}, highest {y[known].max():.4g}"
    )


def _smooth(y: Values) -> Values:
    """An exponential mean over about a twenty-fifth of the curve, past what is no number."""
    rate = 2 / (min(400.0, len(y) / 25) + 1)
    mean, weight = 0.0, 0.0
    smooth = np.full(len(y), np.nan)
    for place, value in enumerate(y):
        if np.isfinite(value):
            mean += rate * (value - mean)
            weight += rate * (1 - weight)
            smooth[place] = mean / weight
    return smooth


def _thinned(x: Values, y: Values) -> tuple[Values, Values]:
    """At most twice `_MOST_POINTS` points, the lowest and the highest of each stretch.

    What is infinite becomes NaN, a gap in the curve.
    """
    y = np.where(np.isfinite(y), y, np.nan)
    if len(x) <= 2 * _MOST_POINTS:
        return x, y
    kept = []
    for part in np.array_split(np.arange(len(x)), _MOST_POINTS):
        finite = part[np.isfinite(y[part])]
        known = finite if len(finite) else part
        kept += sorted({known[y[known].argmin()], known[y[known].argmax()]})
    return x[kept], y[kept]


def _every(x: Values, y: Values) -> tuple[Values, Values]:
    """At most `_MOST_POINTS` points at even distances, the last among them."""
    kept = np.linspace(0, len(x) - 1, min(len(x), _MOST_POINTS)).round().astype(int)
    return x[kept], y[kept]


def _cut_spikes(axes: Axes, values: Values) -> None:
    """Let a few huge values leave the picture rather than flatten the rest."""
    finite = values[np.isfinite(values)]
    usual, most = np.quantile(finite, 0.99), finite.max()
    bottom = min(0.0, float(finite.min()))
    axes.yaxis.set_major_formatter(_PLAIN)
    axes.set_ylim(bottom, 1.08 * (most if most <= 2 * usual else 1.2 * usual) or 1)


def _finish(axes: Axes, unit: str = "step", *, legend: bool = False) -> None:
    axes.set_xlabel(unit, loc="right")
    places = MaxNLocator("auto", integer=True, steps=[1, 2, 5, 10], min_n_ticks=1)
    axes.xaxis.set_major_locator(places)
    axes.xaxis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:,.0f}"))
    axes.margins(x=0.02)
    if axes.dataLim.width == 0:
        axes.set_xlim(axes.dataLim.xmin - 0.6, axes.dataLim.xmin + 0.6)
    if legend:
        axes.legend(
            loc="lower left",
            bbox_to_anchor=(-0.02, 1.0),
            ncols=4,
            labelcolor=INK,
            handlelength=1.5,
            columnspacing=1.3,
        )
