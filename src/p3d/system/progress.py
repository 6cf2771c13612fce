"""Progress of long work: a bar on a terminal, else a line from time to time."""

from __future__ import annotations

import sys
import time
from collections.abc import Callable

from tqdm import tqdm

from p3d.errors import printable
from p3d.system.text import counted

LINE_SECONDS = 30.0
"""Longest time between two lines, unless a single item takes longer."""

TEXT_FORMAT = "{desc} |{bar}| {n_fmt}/{total_fmt} [{elapsed}<{remaining}{postfix}]"
"""Bar with a text; tqdm's own format leaves no room for one in 80 columns."""

_SECONDS_FORMAT = "{l_bar}{bar}| {n_fmt}/{total_fmt} s [{elapsed}<{remaining}]"
"""Bar of seconds of a video; tqdm's own rate, "2.00s/s", may mean either of the two."""

_SYMBOLS = {"B": "MiB", "s": "s"}


class ProgressBar:
    """Progress of some work: a bar if stderr is a terminal, else lines.

    Args:
        total: Amount of work in `unit`, None if unknown.
        title: What is being done.
        unit: A noun for what is counted; or `"B"`, which is shown with binary prefixes, or `"s"`,
            seconds of a video.
        done: Amount that is done already.
        has_text: Whether `advance` gets a text about the work.
        leave: Keep the bar at the end, or print a last line.
        shown: Whether to show anything; only the main process does.
        clock: Returns the time in seconds.
    """

    def __init__(
        self,
        total: int | None,
        title: str,
        unit: str = "video",
        *,
        done: int = 0,
        has_text: bool = False,
        leave: bool = True,
        shown: bool = True,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        is_terminal, is_bytes = sys.stderr.isatty(), unit == "B"
        self._title, self._text = printable(title), ""
        self._bar = tqdm(
            total=total,
            desc=self._title,
            unit=unit,
            initial=done,
            unit_scale=is_bytes,
            unit_divisor=1024,
            bar_format=TEXT_FORMAT if has_text else _SECONDS_FORMAT if unit == "s" else None,
            leave=leave,
            disable=not (shown and is_terminal) or total == 0,
        )
        self._has_lines, self._leave = shown and not is_terminal, leave
        self._unit, self._scale = unit, 2**20 if is_bytes else 1
        self._total, self._done, self._printed = total, done, done
        self._clock = clock
        self._advanced_at = self._printed_at = clock()

    def __enter__(self) -> ProgressBar:
        return self

    def __exit__(self, *exception: object) -> None:
        self._bar.close()
        if self._has_lines and self._leave and self._done > self._printed:
            self._print_line()

    def advance(self, amount: int = 1, text: str = "") -> None:
        """Count `amount` more as done.

        Args:
            amount: Amount of work in the unit of the bar.
            text: What to show beside it; the first words are those that a narrow terminal shows.
        """
        self._done += amount
        self._text = text
        if text:
            self._bar.set_postfix_str(text, refresh=False)
        self._bar.update(amount)
        now = self._clock()
        # Print now if the line would be late after one more item of this length.
        if self._has_lines and now + (now - self._advanced_at) > self._printed_at + LINE_SECONDS:
            self._print_line()
            self._printed_at = now
        self._advanced_at = now

    def _print_line(self) -> None:
        before = "" if self._total is None else f"{self._done // self._scale:,} of "
        last = self._done if self._total is None else self._total
        text = f", {self._text}" if self._text else ""
        print(f"{self._title}: {before}{self._amount(last)}{text}", file=sys.stderr, flush=True)
        self._printed = self._done

    def _amount(self, number: int) -> str:
        """Return a number with its unit."""
        if self._unit in _SYMBOLS:
            return f"{number // self._scale:,} {_SYMBOLS[self._unit]}"
        return counted(number, self._unit)
