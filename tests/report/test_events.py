"""The events of a run in words."""

from __future__ import annotations

from p3d.report.events import describe_events


def test_starts_say_when_and_how() -> None:
    values = {"clips_per_step": 16, "learning_rate": 0.02}
    first = {"event": "start", "step": 0, "processes": 1, **values}
    second = {"event": "start", "step": 40, "processes": 2, "date": "2026-11-27T05:13:39+00:00"}
    assert describe_events([first, {"event": "step", "step": 1}, second]) == [
        ("0", "Started, 1 process, 16 clips a step, learning rate 0.02"),
        ("40", "Resumed 2026-11-27 05:13, 2 processes"),
    ]


def test_checkpoints_are_one_entry() -> None:
    saved = [
        {"event": "checkpoint", "step": step, "bytes": 200e6, "seconds": 0.512}
        for step in (10, 1000)
    ]
    one, two = "A checkpoint was saved", "2 checkpoints were saved"
    assert describe_events(saved[:1]) == [("10", f"{one}, the last of 200 MB in 0.51 s")]
    assert describe_events(saved) == [("1,000", f"{two}, the last of 200 MB in 0.51 s")]


def test_failures_and_skipped_videos_are_named() -> None:
    lines = [
        {"event": "epoch", "step": 5, "epoch": 1, "bad_videos": 1, "overflows": 2},
        {"event": "epoch", "step": 9, "epoch": 2, "bad_videos": 3},
        {"event": "save-failed", "step": 9, "reason": "disk full"},
        {"event": "checkpoint-failed", "step": 9},
        {"event": "new-kind", "step": 9, "size": 3, "of": "x"},
        {"event": "quiet", "step": 9},
    ]
    assert describe_events(lines) == [
        ("5", "Epoch 1: 1 video that cannot be read was skipped"),
        ("5", "Epoch 1: 2 steps were skipped (fp16 overflow)"),
        ("9", "Epoch 2: 3 videos that cannot be read were skipped"),
        ("9", "A file could not be saved: disk full"),
        ("9", "A checkpoint could not be saved: the reason is not known"),
        ("9", "new kind: size 3, of x"),
        ("9", "quiet"),
    ]


def test_values_of_a_wrong_type_are_unknown() -> None:
    lines = [
        {"event": "start", "step": 0, "processes": "many", "learning_rate": None, "date": 3},
        {"event": "checkpoint", "step": 1},
        {"event": "epoch", "step": 1, "bad_videos": "none"},
    ]
    assert [step for step, _ in describe_events(lines)] == ["0", "1"]
