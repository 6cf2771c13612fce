"""The command `p3d report`: a page about a training run, or about an evaluation."""

from __future__ import annotations

import importlib.util
from dataclasses import dataclass
from pathlib import Path

from p3d.errors import UserError, printable
from p3d.report.record import read_run
from p3d.run_folder import LOG_FILE, LOGITS_FILE, REPORT_FILE
from p3d.system.files import write_text
from p3d.system.markers import First, Positional
from p3d.system.spelling import ask_meant


@dataclass(frozen=True)
class ReportOptions:
    """Write report.html, a page about a training run or an evaluation, into its folder."""

    run: Positional[Path]
    """Folder of the run: the --out of `p3d train`; or of an evaluation: the --out of `p3d eval`, or
    any folder with a scores.npz."""
    temperature: First[float | None] = None
    """Show an evaluation's probabilities also with this temperature, as p3d calibrate finds it; by
    default with that of the weights, if they have one."""


def run(options: ReportOptions) -> int:
    """Run `p3d report` and return the exit code."""
    path = write_report(options.run, options.temperature)
    if path is None:
        return 2
    print(f"written to {printable(path)}")
    return 0


def write_report(folder: Path, temperature: float | None = None) -> Path | None:
    """Write `report.html` about the run, or else the evaluation, that a folder holds.

    Args:
        folder: The folder.
        temperature: See `write_evaluation_report`.

    Returns:
        The path of the page, or None, after printing a message, if matplotlib is not installed.

    Raises:
        UserError: The folder holds neither, or the page cannot be written.
    """
    if (folder / LOG_FILE).is_file():
        if temperature is not None:
            raise UserError(f"--temperature: {folder} is a training run; drop it")
        return write_run_report(folder)
    if (folder / LOGITS_FILE).is_file():
        return write_evaluation_report(folder, temperature)
    remedy = "give the --out of p3d train or p3d eval"
    if not folder.exists():
        raise UserError(f"{folder}: no such folder; {ask_meant(folder, remedy)}")
    raise UserError(
        f"{folder} has no {LOG_FILE}, so it is not a training run, and no {LOGITS_FILE}, so it is "
        f"not an evaluation; {remedy}"
    )


def write_run_report(folder: Path) -> Path | None:
    """Write `report.html` from whatever the folder of a run holds.

    The page is one file without scripts; figures and thumbnails are embedded.

    Args:
        folder: The run folder. The videos listed in its validation.csv are read for thumbnails.

    Returns:
        The path of the page, or None, after printing a message, if matplotlib is not installed.

    Raises:
        UserError: The folder holds no run, or the page cannot be written.
    """
    if not _can_draw():
        return None
    from p3d.report.content import run_content
    from p3d.report.render import render

    write_text(folder / REPORT_FILE, render("run.html", **run_content(read_run(folder))))
    return folder / REPORT_FILE


def write_evaluation_report(folder: Path, temperature: float | None = None) -> Path | None:
    """Write `report.html` from the scores of an evaluation, and from its other files if there.

    Args:
        folder: The folder with `scores.npz`. Some of its videos are read for thumbnails.
        temperature: Divides every clip's logits, for a second look at the probabilities; by default
            that of the weights, if they have one.

    Returns:
        As `write_run_report`.

    Raises:
        UserError: The scores cannot be read or have no labels, or the page cannot be written.
    """
    if not _can_draw():
        return None
    from p3d.report.render import render
    from p3d.report.scored import read_scored
    from p3d.report.scored_content import scored_content

    content = scored_content(read_scored(folder, temperature))
    write_text(folder / REPORT_FILE, render("evaluation.html", **content))
    return folder / REPORT_FILE


def _can_draw() -> bool:
    """Return whether matplotlib is installed, after printing a message if not."""
    if importlib.util.find_spec("matplotlib") is None:
        print(f"no {REPORT_FILE}: it needs matplotlib: pip install 'p3d[report]'")
        return False
    return True
