"""Small fonts, and a machine that has no others."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest

from p3d.system import fonts

HANZI = "走路跑步"


def write_font(path: Path, characters: str) -> None:
    """Write a TrueType font in which each character is a square of its own size."""
    pytest.importorskip("fontTools")
    from fontTools.fontBuilder import FontBuilder
    from fontTools.pens.ttGlyphPen import TTGlyphPen

    names = {ord(c): f"g{number}" for number, c in enumerate(characters)}
    order = [".notdef", *names.values()]
    builder = FontBuilder(1000, isTTF=True)
    builder.setupGlyphOrder(order)
    builder.setupCharacterMap(names)
    glyphs = {}
    for number, name in enumerate(order):
        pen, side = TTGlyphPen(None), 400 + 500 * number // len(order)
        for place, point in enumerate([(0, 0), (0, side), (side, side), (side, 0)]):
            (pen.lineTo if place else pen.moveTo)(point)
        pen.closePath()
        glyphs[name] = pen.glyph()
    builder.setupGlyf(glyphs)
    builder.setupHorizontalMetrics(dict.fromkeys(order, (1000, 0)))
    builder.setupHorizontalHeader(ascent=800, descent=-200)
    builder.setupNameTable({"familyName": f"Test {path.stem}", "styleName": "Regular"})
    builder.setupOS2(usWeightClass=500)  # as some fonts for Chinese have
    builder.setupPost()
    path.parent.mkdir(parents=True, exist_ok=True)
    builder.save(path)


def only_fonts_of(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Let this process see no fonts but those in `folder / "fonts"`."""
    if sys.platform in ("win32", "darwin"):
        pytest.skip("the folders of fonts cannot be changed here")
    for name in ("XDG_DATA_HOME", "XDG_DATA_DIRS", "HOME"):
        monkeypatch.setenv(name, str(folder))
    fonts.find_fonts.cache_clear()
    fonts._note_missing.cache_clear()
