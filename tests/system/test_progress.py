"""Progress without a terminal: lines on stderr, by an injected clock."""

from __future__ import annotations

import fcntl
import os
import pty
import struct
import termios
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from itertools import accumulate, pairwise

import pytest
from hypothesis import given
from hypothesis import strategies as st

from p3d.system.progress import LINE_SECONDS, ProgressBar


def run(gaps: list[float], **settings: object) -> ProgressBar:
    """Advance a bar after each of these times in seconds."""
    clock = iter([0.0, *accumulate(gaps)])
    with ProgressBar(len(gaps), "work", clock=lambda: next(clock), **settings) as bar:  # type: ignore[arg-type]
        for number in range(len(gaps)):
            bar.advance(text=f"loss {number}" if settings.get("has_text") else "")
    return bar


def test_prints_a_line_every_half_minute_and_the_last(capsys: pytest.CaptureFixture[str]) -> None:
    run([1.0] * 70)
    assert capsys.readouterr().err.splitlines() == [
        "work: 30 of 70 videos",
        "work: 60 of 70 videos",
        "work: 70 of 70 videos",
    ]


def test_short_work_that_leaves_nothing_prints_nothing(capsys: pytest.CaptureFixture[str]) -> None:
    run([1.0] * 20, leave=False)
    assert capsys.readouterr().err == ""


def test_prints_the_text(capsys: pytest.CaptureFixture[str]) -> None:
    run([40.0, 40.0], unit="step", has_text=True, leave=False)
    assert capsys.readouterr().err.splitlines() == [
        "work: 1 of 2 steps, loss 0",
        "work: 2 of 2 steps, loss 1",
    ]


@pytest.mark.parametrize(
    ("total", "unit", "line"),
    [
        (1200, "s", "40 of 1,200 s"),
        (None, "s", "40 s"),
        (2**31, "B", "0 of 2,048 MiB"),
        (40, "class", "40 of 40 classes"),
        (None, "video", "40 videos"),
    ],
)
def test_units_of_lines(
    total: int | None, unit: str, line: str, capsys: pytest.CaptureFixture[str]
) -> None:
    clock = iter([0.0, 40.0])
    with ProgressBar(total, "work", unit, clock=lambda: next(clock)) as bar:
        bar.advance(40)
    assert capsys.readouterr().err == f"work: {line}\n"


def test_one_is_not_many(capsys: pytest.CaptureFixture[str]) -> None:
    run([40.0])
    assert capsys.readouterr().err == "work: 1 of 1 video\n"


def test_other_processes_print_nothing(capsys: pytest.CaptureFixture[str]) -> None:
    run([40.0] * 3, shown=False)
    assert capsys.readouterr().err == ""


@given(gap=st.floats(0.01, LINE_SECONDS / 2), count=st.integers(1, 200))
def test_lines_are_at_most_half_a_minute_apart(gap: float, count: int) -> None:
    times, now = [0.0], 0.0

    class Recorded(ProgressBar):
        def _print_line(self) -> None:
            times.append(now)

    with Recorded(count, "work", clock=lambda: now, leave=False) as bar:
        for number in range(1, count + 1):
            now = number * gap
            bar.advance()
    times.append(now)
    assert all(b - a <= LINE_SECONDS + 1e-9 for a, b in pairwise(times))


def test_continued_work_counts_what_was_done(capsys: pytest.CaptureFixture[str]) -> None:
    with ProgressBar(5, "work", done=3) as bar:
        bar.advance()
    assert capsys.readouterr().err == "work: 4 of 5 videos\n"


@contextmanager
def terminal(monkeypatch: pytest.MonkeyPatch) -> Iterator[Callable[[], str]]:
    """Make stderr a terminal of 80 columns, and give a function that returns its output."""
    leader, follower = pty.openpty()
    fcntl.ioctl(follower, termios.TIOCSWINSZ, struct.pack("4H", 24, 80, 0, 0))
    with os.fdopen(follower, "w") as file, monkeypatch.context() as patch:
        patch.setattr("sys.stderr", file)

        def output() -> str:
            print("END", file=file, flush=True)
            found = b""
            while not found.endswith(b"END\r\n"):  # the system delivers it in parts
                found += os.read(leader, 65536)
            return found.decode().removesuffix("END\r\n")

        yield output
    os.close(leader)


def test_bar_on_a_terminal_shows_the_first_words_of_the_text(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    with terminal(monkeypatch) as output:
        with ProgressBar(40, "epoch 12/60", "step", has_text=True) as bar:
            bar.advance(20, "run 2 h 10 min left, loss 0.931")
            bar.advance(20, "run 2 h 10 min left, loss 0.931")
        shown = output().replace("\n", "\r").split("\r")
    assert any("40/40" in line and "run 2 h 10 min left, loss 0.931]" in line for line in shown)
    assert all(len(line) <= 80 for line in shown)


def test_nothing_to_do_shows_no_bar(monkeypatch: pytest.MonkeyPatch) -> None:
    with terminal(monkeypatch) as output:
        with ProgressBar(0, "work"):
            pass
        assert output() == ""
