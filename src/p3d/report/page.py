"""The command `p3d report`: a page about a training run."""

from __future__ import annotations

import importlib.util
from dataclasses import dataclass
from pathlib import Path

from p3d.errors import printable
from p3d.report.record import read_run
from p3d.run_folder import REPORT_FILE
from p3d.system.files import write_text
from p3d.system.markers import Positional


@dataclass(frozen=True)
class ReportOptions:
    """Write report.html, a page about a training run, into the run's folder."""

    run: Positional[Path]
    """Folder of the run: the --out of `p3d train`."""


def run(options: ReportOptions) -> int:
    """Run `p3d report` and return the exit code."""
    path = write_run_report(options.run)
    if path is None:
        return 2
    print(f"written to {printable(path)}")
    return 0


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
    if importlib.util.find_spec("matplotlib") is None:
        print(f"no {REPORT_FILE}: it needs matplotlib: pip install 'p3d[report]'")
        return None
    from p3d.report.content import run_content
    from p3d.report.render import render

    write_text(folder / REPORT_FILE, render("run.html", **run_content(read_run(folder))))
    return folder / REPORT_FILE
