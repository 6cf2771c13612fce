"""Fonts for names in pictures."""

from __future__ import annotations

from pathlib import Path

import pytest
from PIL import Image, ImageDraw

from helpers.fonts import HANZI, only_fonts_of, write_font
from p3d.system.fonts import draw_text, find_fonts, plot_fonts, text_runs, text_width


def test_the_font_with_all_characters_is_found(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    only_fonts_of(tmp_path, monkeypatch)
    write_font(tmp_path / "fonts" / "a" / "half.ttf", HANZI[:2])
    write_font(tmp_path / "fonts" / "b" / "whole.ttf", f"{HANZI} a")
    (tmp_path / "fonts" / "damaged.ttf").write_bytes(b"no font")
    assert find_fonts(f"{HANZI} a") == ((tmp_path / "fonts" / "b" / "whole.ttf",), "")


def test_several_fonts_share_the_characters_and_what_none_has_is_named(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    only_fonts_of(tmp_path, monkeypatch)
    paths = tuple(tmp_path / "fonts" / name for name in ("a.otf", "b.ttf"))
    write_font(paths[0], HANZI[:2])
    write_font(paths[1], HANZI[2])
    assert find_fonts(HANZI) == (paths, HANZI[3])
    find_fonts(HANZI[3:])
    line = "p3d: no installed font has some characters of the names in pictures; install one that "
    assert capsys.readouterr().err == f"{line}has them, such as Noto Sans CJK\n"


def test_regular_fonts_come_before_bold_ones(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    only_fonts_of(tmp_path, monkeypatch)
    for name in ("A-Bold.ttf", "B-Regular.ttf"):
        write_font(tmp_path / "fonts" / name, HANZI)
    assert [path.name for path in find_fonts(HANZI)[0]] == ["B-Regular.ttf"]


def test_marks_and_spaces_need_no_font(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    only_fonts_of(tmp_path, monkeypatch)
    assert find_fonts(" \u0301\ufe0f\n") == ((), "")


def _drawn(text: str) -> bytes:
    image = Image.new("L", (80, 20))
    draw_text(ImageDraw.Draw(image), (0, 0), text, 12, "white")
    return image.tobytes()


def _shown(text: str) -> list[str]:
    return [part for _, part in text_runs(text, 12)]


def test_pictures_show_the_glyphs_of_an_installed_font(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    only_fonts_of(tmp_path, monkeypatch)
    assert _shown("Läufer") == ["Läufer"]
    assert _shown(f"{HANZI} a") == ["???? a"]
    write_font(tmp_path / "fonts" / "a.ttf", f"{HANZI[:3]}a")
    find_fonts.cache_clear()
    assert _shown(f"{HANZI} a") == [f"{HANZI[:3]}? a"]
    assert _drawn(HANZI[0]) != _drawn(HANZI[1])


def test_each_part_of_a_line_is_drawn_by_a_font_that_has_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """As names in two scripts, of which no font has both."""
    only_fonts_of(tmp_path, monkeypatch)
    write_font(tmp_path / "fonts" / "a.ttf", f"{HANZI[:2]}a")
    write_font(tmp_path / "fonts" / "b.ttf", HANZI[2])
    text = f"{HANZI[2]} {HANZI[0]}a{HANZI[2]}"
    assert _shown(text) == [f"{HANZI[2]} ", f"{HANZI[0]}a", HANZI[2]]
    assert _drawn(HANZI[2] + HANZI[1]) != _drawn(HANZI[2] + HANZI[0])
    assert text_width(text, 12) == pytest.approx(60)
    assert capsys.readouterr().err == ""


def test_plots_show_the_glyphs_of_an_installed_font(
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    caplog: pytest.LogCaptureFixture,
) -> None:
    pytest.importorskip("matplotlib")
    from matplotlib.figure import Figure

    def drawn(text: str) -> bytes:
        with plot_fonts(f"Läufer {text}"):
            figure = Figure(figsize=(2, 1))
            figure.text(0, 0.5, text)
            figure.savefig(tmp_path / "a.png")
        return Image.open(tmp_path / "a.png").tobytes()

    only_fonts_of(tmp_path, monkeypatch)
    # Without one, matplotlib draws the same box for both, and nothing but the note is said.
    assert drawn(HANZI[0]) == drawn(HANZI[1])
    assert capsys.readouterr().err.count("\n") == 1
    write_font(tmp_path / "fonts" / "late.ttf", HANZI)
    find_fonts.cache_clear()
    assert drawn(HANZI[0]) != drawn(HANZI[1])
    assert (capsys.readouterr().err, caplog.text) == ("", "")
