"""Columns of text in a terminal."""

from __future__ import annotations

from itertools import pairwise

import pytest
from hypothesis import given
from hypothesis import strategies as st

from p3d.system.text import columns, fill, format_table, pad, shorten, shorten_path

NAMES = st.text(st.sampled_from("ab走路ｱé\u0301กำ😀"), max_size=12)


@pytest.mark.parametrize(
    ("text", "width"),
    [
        ("", 0),
        ("walk", 4),
        ("Läufer", 6),
        ("走路", 4),
        ("\uff37", 2),  # full-width W
        ("ｱ", 1),  # half-width katakana
        ("e\u0301", 1),
        ("한글", 4),
        ("😀", 2),
        ("ที่", 1),
    ],
)
def test_wide_characters_take_two_columns_and_marks_none(text: str, width: int) -> None:
    assert columns(text) == width


def test_tables_are_aligned_in_terminal_columns() -> None:
    rows = [("走路", "跑", "50.0%"), ("e\u0301", "walk", "5.0%"), ("running", "跑步", "100.0%")]
    assert format_table(("class", "answer", "part"), rows).splitlines() == [
        "class    answer    part",
        "-----------------------",
        "走路         跑   50.0%",
        "e\u0301          walk    5.0%",
        "running    跑步  100.0%",
    ]


@given(NAMES, st.integers(1, 12))
def test_shortened_text_fits_and_keeps_what_fits(text: str, limit: int) -> None:
    for cut, kept in ((shorten, str.startswith), (shorten_path, str.endswith)):
        short = cut(text, limit)
        if columns(text) <= limit:
            assert short == text
        else:
            # A wide character may leave one column free.
            assert limit - 1 <= columns(short) <= limit
            assert "…" in short
            assert kept(text, short.strip("…"))


@given(NAMES, st.integers(0, 30))
def test_padding_fills_columns(text: str, width: int) -> None:
    for right in (False, True):
        padded = pad(text, width, right=right)
        assert columns(padded) == max(width, columns(text))
        assert padded.strip() == text


@given(st.lists(NAMES.filter(lambda name: name.split() == [name]), max_size=30))
def test_filled_lines_fit_a_terminal(words: list[str]) -> None:
    lines = fill(" ".join(words), 20).split("\n")
    assert " ".join(lines).split() == words
    assert all(columns(line) <= 20 or " " not in line for line in lines)
    for line, following in pairwise(lines):
        assert columns(f"{line} {following.split()[0]}") > 20, "the word had no room"
