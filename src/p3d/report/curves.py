"""Curves of a training run, drawn from its log (needs matplotlib)."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import NamedTuple

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator, NullLocator, PercentFormatter
from numpy.typing import NDArray

from p3d.report.figures import BLUE, ORANGE, TEAL, Chart, figure_style, make_chart
from p3d.report.lines import column
from p3d.report.record import RunRecord

TRAINING, VALIDATION, OTHER = BLUE, ORANGE, TEAL

Values = NDArray[np.float64]

_PARTS = 400
"""A curve is drawn by the lowest and the highest point of each of so many parts."""


def draw_learning(record: RunRecord) -> list[Chart]:
    """Draw loss and accuracy, where the log has finite values."""
    return _draw_all(record, _LEARNING)


def draw_machine(record: RunRecord) -> list[Chart]:
    """Draw optimization, speed and memory, where the log has finite values."""
    return _draw_all(record, _MACHINE)


def _draw_all(record: RunRecord, specs: Sequence[_Spec]) -> list[Chart]:
    with figure_style():
        charts = [_draw(record, spec) for spec in specs]
    return [chart for chart in charts if chart is not None]


def _draw(record: RunRecord, spec: _Spec) -> Chart | None:
    several = len(spec.curves) > 1
    figure = Figure(figsize=(5.4, 2.7 if several else 2.1), layout="constrained")
    axes = figure.add_subplot()
    values, descriptions = [], []
    for curve in spec.curves:
        if curve.key.endswith("top5") and not record.shows_top5:
            continue
        x, y = _points(record, curve, spec.unit)
        finite = np.isfinite(x) & np.isfinite(y)
        if finite.any():
            label = curve.label or spec.title
            y = np.where(finite, y * curve.factor, np.nan)
            _plot(axes, x, y, curve, label)
            values.append(y[finite])
            descriptions.append(_describe(x[finite], y[finite], label))
    if not values:
        return None
    spec.set_y_axis(axes, np.concatenate(values))
    _set_x_axis(axes, spec.unit)
    if several:
        axes.legend(loc="lower left", bbox_to_anchor=(-0.02, 1.0), ncols=4)
    return make_chart(figure, spec.title, spec.caption, "; ".join(descriptions))


def _points(record: RunRecord, curve: _Curve, unit: str) -> tuple[Values, Values]:
    if unit == "epoch":
        return column(record.epochs, curve.key, x="epoch")
    x, y = column(record.steps, curve.key)
    return (x, y) if len(x) else column(record.epochs, curve.epoch_key or curve.key)


def _plot(axes: Axes, x: Values, y: Values, curve: _Curve, label: str) -> None:
    """Plot a curve, with markers if it is short; show a noisy one faintly under its average."""
    marker = "o" if len(x) <= 40 else None
    if curve.smooth and marker is None:
        axes.plot(*_envelope(x, y), color=curve.color, alpha=0.28, linewidth=0.8)
        y = _smooth(y)
    axes.plot(x, y, curve.line, color=curve.color, label=label, marker=marker)


def _describe(x: Values, y: Values, label: str) -> str:
    return (
        f"{label}: {y[0]:.4g} at {x[0]:g}, {y[-1]:.4g} at {x[-1]:g}, "
        f"lowest {y.min():.4g}, highest {y.max():.4g}"
    )


def _smooth(y: Values) -> Values:
    """Return the exponential moving average over about 1/25 of the curve, with its gaps (NaN)."""
    rate = 2 / (min(400.0, len(y) / 25) + 1)
    mean, weight = 0.0, 0.0
    smooth = np.full(len(y), np.nan)
    for index in np.flatnonzero(np.isfinite(y)):
        mean += rate * (y[index] - mean)
        weight += rate * (1 - weight)
        smooth[index] = mean / weight
    return smooth


def _envelope(x: Values, y: Values) -> tuple[Values, Values]:
    """Return the lowest and the highest point of each part of a long curve."""
    if len(x) <= 2 * _PARTS:
        return x, y
    low, high = np.nan_to_num(y, nan=np.inf), np.nan_to_num(y, nan=-np.inf)
    kept: list[int] = []
    for part in np.array_split(np.arange(len(x)), _PARTS):
        kept += sorted({part[low[part].argmin()], part[high[part].argmax()]})
    return x[kept], y[kept]


def _set_x_axis(axes: Axes, unit: str) -> None:
    axes.set_xlabel(unit, loc="right")
    locator = MaxNLocator("auto", integer=True, steps=[1, 2, 5, 10], min_n_ticks=1)
    axes.xaxis.set_major_locator(locator)
    axes.xaxis.set_major_formatter("{x:,.0f}")


def _from_zero(axes: Axes, values: Values) -> None:
    axes.set_ylim(0, 1.12 * values.max() or 1)
    axes.yaxis.set_major_formatter("{x:,g}")


def _without_spikes(axes: Axes, values: Values) -> None:
    """Prevent a few huge values from flattening the rest of the curve."""
    usual, highest = np.quantile(values, 0.99), values.max()
    top = highest if highest <= 2 * usual else 1.2 * usual
    axes.set_ylim(min(0.0, values.min()), 1.08 * top or 1)
    axes.yaxis.set_major_formatter("{x:,g}")


def _percent(axes: Axes, values: Values) -> None:
    axes.set_ylim(0, max(0.05, min(1.03, 1.15 * values.max())))
    axes.yaxis.set_major_formatter(PercentFormatter(1))


def _log_if_wide(axes: Axes, values: Values) -> None:
    if values.min() <= 0 or values.max() <= 50 * values.min():
        return _from_zero(axes, values)
    axes.set_yscale("log")
    axes.yaxis.set_minor_locator(NullLocator())
    return axes.yaxis.set_major_formatter("{x:,g}")


def _powers_of_two(axes: Axes, _: Values) -> None:
    axes.set_yscale("log", base=2)
    axes.yaxis.set_major_formatter("{x:,g}")


class _Curve(NamedTuple):
    """A curve: its key in the log lines of steps or else of epochs, and its style."""

    key: str
    label: str = ""
    color: str = OTHER
    line: str = "-"
    smooth: bool = False
    factor: float = 1.0
    epoch_key: str | None = None


class _Spec(NamedTuple):
    """What a chart shows; `set_y_axis` gets the finite values of all curves."""

    title: str
    caption: str
    curves: tuple[_Curve, ...]
    set_y_axis: Callable[[Axes, Values], None] = _from_zero
    unit: str = "step"


_LEARNING = (
    _Spec(
        "Loss",
        "Cross-entropy: training per step (faint) and smoothed; validation per epoch.",
        (
            _Curve("loss", "training", TRAINING, smooth=True, epoch_key="train_loss"),
            _Curve("validation_loss", "validation", VALIDATION),
        ),
        _without_spikes,
    ),
    _Spec(
        "Accuracy",
        "Training accuracy is measured during the epoch, on augmented clips.",
        (
            _Curve("train_top1", "training top-1", TRAINING),
            _Curve("train_top5", "top-5", TRAINING, ":"),
            _Curve("validation_top1", "validation top-1", VALIDATION),
            _Curve("validation_top5", "top-5", VALIDATION, ":"),
        ),
        _percent,
        unit="epoch",
    ),
)
_MACHINE = (
    _Spec("Learning rate", "Base learning rate per step.", (_Curve("lr"),)),
    _Spec(
        "Throughput",
        "Training clips per second, over all devices.",
        (_Curve("clips_per_second", smooth=True),),
    ),
    _Spec(
        "Waiting for data",
        "Percentage of a step in which the device waits for the loader.",
        (_Curve("data_wait", smooth=True),),
        _percent,
    ),
    _Spec(
        "Gradient norm",
        "L2 norm over all weights, before clipping.",
        (_Curve("gradient_norm", smooth=True),),
        _log_if_wide,
    ),
    _Spec("Loss scale", "fp16: halved at an overflow.", (_Curve("scale"),), _powers_of_two),
    _Spec("Memory", "Peak per device so far, in GiB.", (_Curve("memory_mib", factor=1 / 1024),)),
)
