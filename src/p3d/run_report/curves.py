"""The curves of a training run, drawn from its log (needs matplotlib)."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import FuncFormatter, MaxNLocator, PercentFormatter
from numpy.typing import NDArray

from p3d.run_report.figures import INK, Chart, figure_style, make_chart
from p3d.run_report.record import Line, RunRecord, column

TRAINING, VALIDATION, OTHER = "#2f6db5", "#d9730d", "#4c6b68"
_MOST_POINTS = 400

Values = NDArray[np.float64]


def draw_curves(record: RunRecord) -> list[Chart]:
    """Every curve that the log has numbers for."""
    steps, epochs = record.steps, record.epochs
    drawn: list[Chart | None] = []
    with figure_style():
        drawn.append(_loss(steps, epochs))
        drawn.append(_accuracy(epochs))
        for name, title, caption, finish in _STEP_CURVES:
            drawn.append(_step_curve(steps, epochs, name, title, caption, finish))
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
        _draw_points(
            axes,
            *_by_epoch(epochs, f"{part}_{top}"),
            colour,
            f"{part.replace('train', 'training')} {label}",
            "-" if top == "top1" else ":",
        )
        for part, colour in (("train", TRAINING), ("validation", VALIDATION))
        for top, label in (("top1", "top-1"), ("top5", "top-5"))
    ]
    if not any(told):
        return None
    axes.set_ylim(0, 1.03)
    axes.yaxis.set_major_formatter(PercentFormatter(1, decimals=0))
    _finish(axes, unit="epoch", legend=True)
    caption = "Share of right answers. Training's are of augmented clips, as the epoch went by."
    return make_chart(figure, "Accuracy", caption, told)


def _by_epoch(epochs: Sequence[Line], name: str) -> tuple[Values, Values]:
    """Values against the epoch's number rather than its step."""
    return column([{**line, "step": line.get("epoch", np.nan)} for line in epochs], name)


def _percent(axes: Axes) -> None:
    axes.set_ylim(0, max(0.05, min(1.0, 1.15 * axes.dataLim.ymax)))
    axes.yaxis.set_major_formatter(PercentFormatter(1, decimals=None))


def _from_zero(axes: Axes) -> None:
    axes.set_ylim(0, 1.12 * axes.dataLim.ymax or 1)


def _powers_of_two(axes: Axes) -> None:
    axes.set_yscale("log", base=2)
    axes.yaxis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:,g}"))


def _wide_range(axes: Axes) -> None:
    low, high = axes.dataLim.minposy, axes.dataLim.ymax
    if axes.dataLim.ymin > 0 and high > 50 * low:
        axes.set_yscale("log")
    else:
        _from_zero(axes)


def _mebibytes(axes: Axes) -> None:
    _from_zero(axes)
    axes.yaxis.set_major_formatter(FuncFormatter(lambda value, _: f"{value / 1024:g} GiB"))


_STEP_CURVES: tuple[tuple[str, str, str, Callable[[Axes], None]], ...] = (
    ("lr", "Learning rate", "The base rate at every step.", _from_zero),
    ("clips_per_second", "Throughput", "Training clips a second, over all devices.", _from_zero),
    (
        "data_wait",
        "Waiting for data",
        "Share of a step in which the device waited for the loader.",
        _percent,
    ),
    ("gradient_norm", "Gradient norm", "L2 norm over all weights, before clipping.", _wide_range),
    ("scale", "Loss scale", "fp16: halved when a gradient overflows.", _powers_of_two),
    ("memory_mib", "Device memory", "The most that was taken so far.", _mebibytes),
)


def _step_curve(
    steps: Sequence[Line],
    epochs: Sequence[Line],
    name: str,
    title: str,
    caption: str,
    finish: Callable[[Axes], None],
) -> Chart | None:
    figure, axes = _figure(2.1)
    values = column(steps, name)
    exact = name in ("lr", "scale", "memory_mib")
    if exact or len(values[0]) == 0:
        values = values if len(values[0]) else column(epochs, name)
        told = _draw_points(axes, *_thinned(*values), OTHER, title, of=values[0])
    else:
        told = _draw_smoothed(axes, *values, OTHER, title)
    if not told:
        return None
    finish(axes)
    _finish(axes)
    return make_chart(figure, title, caption, [told])


def _figure(height: float = 2.7) -> tuple[Figure, Axes]:
    figure = Figure(figsize=(5.4, height), layout="constrained")
    return figure, figure.add_subplot()


def _draw_smoothed(axes: Axes, x: Values, y: Values, colour: str, label: str) -> str:
    """A curve with much noise: faint as it is, and smoothed. Returns what it shows in words."""
    if len(x) < 25:
        return _draw_points(axes, x, y, colour, label)
    axes.plot(*_thinned(x, y), color=colour, alpha=0.28, linewidth=0.8)
    return _draw_points(axes, *_every(x, _smooth(y)), colour, label, of=x)


def _draw_points(
    axes: Axes,
    x: Values,
    y: Values,
    colour: str,
    label: str,
    line: str = "-",
    of: Values | None = None,
) -> str:
    """A curve, with its points where they are few. Returns what it shows in words."""
    known = np.isfinite(y) & np.isfinite(x)
    if not known.any():
        return ""
    few = len(x if of is None else of) <= 40
    values = np.where(known, y, np.nan)
    axes.plot(x, values, line, color=colour, label=label, marker="o" if few else None)
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
    """At most twice `_MOST_POINTS` points, the lowest and the highest of each stretch."""
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
    axes.set_ylim(bottom, 1.08 * (most if most <= 2 * usual else 1.2 * usual) or 1)


def _finish(axes: Axes, unit: str = "step", *, legend: bool = False) -> None:
    axes.set_xlabel(unit, loc="right")
    axes.xaxis.set_major_locator(MaxNLocator("auto", integer=True, steps=[1, 2, 5, 10]))
    axes.xaxis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:,.0f}"))
    axes.margins(x=0.02)
    if legend:
        axes.legend(loc="lower left", bbox_to_anchor=(-0.02, 1.0), ncols=2, labelcolor=INK)
