"""Fonts for names in pictures."""

from __future__ import annotations

from pathlib import Path

import pytest
from PIL import Image, ImageDraw

from helpers.fonts import HANZI, only_fonts_of, write_font
from p3d.system.fonts import find_fonts, picture_font, plot_fonts


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
    font, shown = picture_font(text, 12)
    image = Image.new("L", (80, 20))
    ImageDraw.Draw(image).text((0, 0), shown, fill=255, font=font)
    return image.tobytes()


def test_pictures_show_the_glyphs_of_an_installed_font(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    only_fonts_of(tmp_path, monkeypatch)
    assert picture_font("Läufer", 12)[1] == "Läufer"
    assert picture_font(f"{HANZI} a", 12)[1] == "???? a"
    write_font(tmp_path / "fonts" / "a.ttf", f"{HANZI[:3]}a")
    find_fonts.cache_clear()
    assert picture_font(f"{HANZI} a", 12)[1] == f"{HANZI[:3]}? a"
    assert _drawn(HANZI[0]) != _drawn(HANZI[1])


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
