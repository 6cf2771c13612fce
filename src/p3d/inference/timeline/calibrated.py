"""How scores become segments: as the user says, else as the weights say, else by the defaults."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass, fields, replace
from typing import Annotated

from p3d.errors import UserError
from p3d.inference.timeline.cut_options import CutOptions, paired_thresholds
from p3d.system.markers import Heading
from p3d.weights.calibration import TIMELINE_PREFIX


def kept_values(cut: CutOptions) -> dict[str, float]:
    """Return options as values of a calibration, see `P3D.calibration`."""
    return {f"{TIMELINE_PREFIX}{name}": float(value) for name, value in asdict(cut).items()}


def calibrated_cut(calibration: Mapping[str, float]) -> CutOptions | None:
    """Return the options that a calibration holds; None if it has none.

    Raises:
        UserError: They are incomplete or out of range.
    """
    names = [field.name for field in fields(CutOptions)]
    values = {name: calibration.get(f"{TIMELINE_PREFIX}{name}") for name in names}
    found = {name: value for name, value in values.items() if value is not None}
    if not found:
        return None
    try:
        if len(found) < len(names):
            raise UserError(f"only {', '.join(found)}")
        cut = CutOptions(**found)
        cut.check()
    except UserError as error:
        raise UserError(
            f"the weights' calibration of timelines is damaged ({error}); calibrate them again"
        ) from error
    return cut


def describe_cut(cut: CutOptions) -> str:
    """Return options in a line: `smooth 1 high 0.5 low 0.3 shortest 0.5 merge 0.5`."""
    return " ".join(f"{name} {value:.4g}" for name, value in asdict(cut).items())


@dataclass(frozen=True)
class CutArguments:
    """How scores become segments, as far as the user says it."""

    smooth: Annotated[float | None, Heading("segments")] = None
    """Seconds over which scores are averaged; 0 does not smooth. By default what p3d calibrate has
    kept with the weights, else 1."""
    high: float | None = None
    """Probability that a class must reach for a segment; by default calibrated, else 0.5, but at
    least --low."""
    low: float | None = None
    """Probability that ends a segment when the class falls below it; by default calibrated, else
    0.3, but at most --high."""
    shortest: float | None = None
    """Shortest segment in seconds; by default calibrated, else 0.5."""
    merge: float | None = None
    """Longest gap in seconds between two segments of a class that become one; by default
    calibrated, else 0.5."""

    @property
    def given(self) -> dict[str, float]:
        """The values that the user gave, by name."""
        return {name: value for name, value in asdict(self).items() if value is not None}

    def check(self) -> None:
        """Raise UserError if a value is out of range whatever the others are."""
        self._over(CutOptions())

    def _over(self, usual: CutOptions) -> CutOptions:
        """Return options that are the usual ones where the user gave none, and fit each other."""
        high, low = paired_thresholds(self.high, self.low, usual.high, usual.low)
        cut = replace(usual, **{**self.given, "high": high, "low": low})
        cut.check()
        return cut

    def resolve(self, calibration: Mapping[str, float]) -> tuple[CutOptions, str]:
        """Return all options, and where they come from, in words.

        Args:
            calibration: Values that were stored with the weights, see `P3D.calibration`.

        Raises:
            UserError: They do not fit each other, or the stored ones are damaged.
        """
        kept, given = calibrated_cut(calibration), self.given
        usual = kept or CutOptions()
        cut = self._over(usual)
        rest = "calibrated" if kept else "default"
        if not given:
            return cut, rest
        if len(given) == len(fields(self)):
            return cut, "given"
        flags = ", ".join(f"--{name}" for name in given)
        follows = [
            f", {name} follows"
            for name in ("high", "low")
            if name not in given and getattr(cut, name) != getattr(usual, name)
        ]
        return cut, f"{flags} given{''.join(follows)}, the rest {rest}"
