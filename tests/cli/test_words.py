"""Words of a command line become the values of options."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path
from typing import Annotated, Literal

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from p3d.cli.options import build, options_of
from p3d.cli.words import read_words
from p3d.errors import UserError
from p3d.system.markers import First, Heading, Positional


@dataclass(frozen=True)
class Inner:
    rate: First[float] = 0.5
    """Rate of
    something: per second."""
    sizes: int | tuple[int, int] = 8
    names: tuple[str, ...] = ()


@dataclass(frozen=True)
class Outer:
    videos: Positional[tuple[Path, ...]]
    mode: Literal["fast", "slow", 3] = "fast"
    limit: Annotated[int | None, Heading("run")] = 7
    resume: bool = False
    report: bool = True
    inner: Inner = field(default_factory=Inner)


@dataclass(frozen=True)
class Wider(Inner):
    minutes: float = 30.0
    """Time for all."""


def parse(*words: str, **defaults: object) -> Outer:
    options = options_of(Outer, defaults)
    values = {option.flag: option.default for option in options}
    return build(Outer, values | read_words("p3d x", options, words), defaults)  # type: ignore[no-any-return]


def test_defaults_apply_to_options_that_are_not_given() -> None:
    assert parse() == Outer(())
    assert parse("--rate", "2", inner=Inner(names=("a",))) == Outer((), inner=Inner(2.0, 8, ("a",)))


def test_values_follow_their_option_or_an_equals_sign() -> None:
    expected = Outer((), "slow", 9, resume=True, report=False)
    assert parse("--mode=slow", "--limit", "9", "--resume", "--no-report") == expected
    assert parse("--limit", "1", "--mode", "slow", "--limit=9", "--resume", "--no-report") == (
        expected
    )


def test_positional_words_may_stand_anywhere() -> None:
    expected = Outer((Path("a"), Path("b"), Path("--c")), resume=True)
    assert parse("a", "--resume", "b", "--", "--c") == expected
    assert parse("--resume", "--videos", "a", "b", "--limit", "7").videos == (Path("a"), Path("b"))


def test_a_union_takes_either_number_of_words() -> None:
    assert parse("--sizes", "128").inner.sizes == 128
    assert parse("--sizes", "128", "170").inner.sizes == (128, 170)
    with pytest.raises(UserError, match="--sizes is '1 b'; give an integer"):
        parse("--sizes", "1", "b")


def test_none_and_choices_keep_their_types() -> None:
    assert parse("--limit", "None").limit is None
    assert parse("--mode", "3").mode == 3


def test_lists_end_at_the_next_option() -> None:
    assert parse("--names", "-1", "b c", "--resume").inner.names == ("-1", "b c")
    assert parse("--names", "--resume").inner.names == ()


def test_negative_numbers_are_values() -> None:
    assert parse("--rate", "-1e-3", "--limit", "-2") == Outer((), limit=-2, inner=Inner(-1e-3))


@settings(max_examples=30)
@given(
    st.integers(),
    st.floats(allow_nan=False, allow_infinity=False),
    st.lists(st.text(min_size=1).filter(lambda text: not text.startswith("-")), max_size=3),
    st.booleans(),
)
def test_every_value_can_be_given(limit: int, rate: float, names: list[str], on: bool) -> None:
    words = [f"--limit={limit}", f"--rate={rate!r}", "--names", *names]
    outer = parse(*words, "--resume" if on else "--no-resume")
    assert outer == Outer((), limit=limit, resume=on, inner=Inner(rate, 8, tuple(names)))


@given(st.lists(st.text()))
def test_any_words_are_taken_or_refused_in_one_line(words: list[str]) -> None:
    try:
        outer = parse(*words)
    except UserError as error:
        message = str(error)
        assert message.isprintable()
    else:
        assert isinstance(outer, Outer)


def test_the_type_of_a_default_decides_on_the_options() -> None:
    wider = Wider(rate=0.1)
    assert parse("--minutes", "5", inner=wider).inner == Wider(rate=0.1, minutes=5.0)
    with pytest.raises(UserError, match="p3d x has no option --minutes"):
        parse("--minutes", "5")
    texts = {option.flag: option.text for option in options_of(Outer, {"inner": wider})}
    assert texts["--rate"].startswith("Rate of")
    assert texts["--minutes"] == "Time for all."


def test_marks_and_docstrings_describe_an_option() -> None:
    options = {option.flag: option for option in options_of(Outer, {}, "main")}
    assert options["--rate"].text == "Rate of\nsomething: per second."
    assert [option.heading for option in options.values()] == (
        ["main"] * 2 + ["run"] * 3 + ["inner"] * 3
    )
    assert [flag for flag, option in options.items() if option.is_first] == ["--videos", "--rate"]
    assert options["--report"].usage == "--report, --no-report"
    assert options["--videos"].usage == "VIDEOS ..."
