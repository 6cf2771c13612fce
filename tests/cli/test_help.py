"""Help pages: short, whole sentences, and nothing missing from the long ones."""

from __future__ import annotations

import re

import pytest

from p3d.cli import COMMANDS, main
from p3d.cli.parse import command_options

FIRST_OF_TRAIN = (
    "--data --recipe --config --weights --out --epochs --batch-size --lr --crop "
    "--device --precision"
)


@pytest.fixture(autouse=True)
def _narrow_terminal(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("COLUMNS", "80")


def page(capsys: pytest.CaptureFixture[str], *words: str) -> str:
    assert main(words) == 0
    return capsys.readouterr().out


def flags(text: str) -> list[str]:
    """Return the options that have an entry of their own."""
    return re.findall(r"(?m)^  (--[a-z0-9-]+)", text)


@pytest.mark.parametrize("name", COMMANDS)
def test_the_long_help_has_every_option(name: str, capsys: pytest.CaptureFixture[str]) -> None:
    text = page(capsys, *name.split(), "--help-all")
    assert text.startswith(f"usage: p3d {name}")
    options = [option for option in command_options(COMMANDS[name]) if option.heading != "help"]
    assert {*flags(text)} == {option.flag for option in options if not option.is_positional}
    for option in options:
        assert option.text, f"{option.flag} has no help"


@pytest.mark.parametrize("name", COMMANDS)
def test_the_short_help_fits_a_screen(name: str, capsys: pytest.CaptureFixture[str]) -> None:
    for help_option in ("--help", "-h"):
        lines = page(capsys, *name.split(), help_option).splitlines()
        assert len(lines) <= 45
        assert max(map(len, lines)) <= 80
        assert not re.search(r"\{None|\(default: \)|None\}", "\n".join(lines))


@pytest.mark.parametrize("name", COMMANDS)
def test_the_short_help_is_not_empty(name: str, capsys: pytest.CaptureFixture[str]) -> None:
    """Show what people use first: the author of an option marks it with `First`."""
    short = flags(page(capsys, *name.split(), "--help"))
    assert len(short) >= min(5, len(flags(page(capsys, *name.split(), "--help-all"))))


def test_the_first_options_of_train(capsys: pytest.CaptureFixture[str]) -> None:
    text = page(capsys, "train", "--help")
    assert flags(text) == [*FIRST_OF_TRAIN.split(), "--help-all"]
    assert "scratch: A small set without pretrained weights." in text


def test_lines_break_between_words_only(capsys: pytest.CaptureFixture[str]) -> None:
    text = page(capsys, "train", "--help-all")
    assert "pass\n                        and recompute the rest: less memory, more time." in text
    text = page(capsys, "prepare", "manifest", "--help")
    assert "\n                          csv: any CSV with a header" in text


def test_the_help_shows_the_values_of_the_recipe(capsys: pytest.CaptureFixture[str]) -> None:
    text = page(capsys, "train", "--recipe", "ucf101-paper", "--help-all")
    assert "(default: 7500)" in text


def test_options_that_are_on_show_how_to_turn_them_off(capsys: pytest.CaptureFixture[str]) -> None:
    assert "--training, --no-training" in page(capsys, "bench", "model", "--help")
    assert "--no-" not in page(capsys, "train", "--help-all")


def test_the_help_of_a_command_can_be_asked_for_by_name(capsys: pytest.CaptureFixture[str]) -> None:
    assert page(capsys, "help") == page(capsys, "--help")
    assert page(capsys, "help", "prepare") == page(capsys, "prepare", "--help")
    assert page(capsys, "help", "prepare", "check") == page(capsys, "prepare", "check", "--help")
