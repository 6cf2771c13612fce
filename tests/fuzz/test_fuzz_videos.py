"""A short run of `fuzz_videos.py`; run the script for a long one."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

from fuzz.fuzz_videos import Worker, fuzz, write_input
from helpers.videos import write_video


def test_damaged_videos_read_the_same_every_time_or_are_refused() -> None:
    summary = fuzz(count=60, seed=0, seconds=120)
    assert summary.findings == []
    assert summary.counts["read"] > 10
    assert summary.counts["refused"] > 5


def test_inputs_depend_on_seed_and_number_only(tmp_path: Path) -> None:
    files = {"a.avi": write_video(tmp_path / "a.avi", 5).read_bytes()}
    inputs = [
        write_input(tmp_path, files, seed, number).read_bytes()
        for seed, number in ((1, 5), (1, 5), (1, 6), (2, 5))
    ]
    assert inputs[0] == inputs[1]
    assert len(set(inputs)) == 3


class Exit:
    """Ends the process that unpickles it."""

    def __reduce__(self) -> tuple[Any, ...]:
        return os._exit, (3,)


def test_exceptions_and_crashes_are_findings() -> None:
    worker = Worker()
    not_a_path: Any = 5
    assert "TypeError" in worker.read(not_a_path)
    ending: Any = Exit()
    assert worker.read(ending) == "a crash: exit code 3"
    worker.stop()
