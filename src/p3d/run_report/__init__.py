"""A page about a training run, `report.html`, made from the run's folder alone."""

from __future__ import annotations

from p3d.run_report.page import ReportOptions, run, write_run_report

__all__ = ["ReportOptions", "run", "write_run_report"]
