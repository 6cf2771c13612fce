"""Data sets made ready and checked: what `p3d prepare` does."""

from __future__ import annotations

from p3d.data.prepare.check import CheckOptions, CheckReport, check_dataset
from p3d.data.prepare.check import run as run_check
from p3d.data.prepare.frames import FramesOptions, FramesSummary, extract_frames
from p3d.data.prepare.frames import run as run_frames
from p3d.data.prepare.ucf101 import Ucf101Options, Ucf101Summary, prepare_ucf101
from p3d.data.prepare.ucf101 import run as run_ucf101

__all__ = [
    "CheckOptions",
    "CheckReport",
    "FramesOptions",
    "FramesSummary",
    "Ucf101Options",
    "Ucf101Summary",
    "check_dataset",
    "extract_frames",
    "prepare_ucf101",
    "run_check",
    "run_frames",
    "run_ucf101",
]
