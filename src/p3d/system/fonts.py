"""Fonts of this machine for names in pictures, which may be in any script."""

from __future__ import annotations

import logging
import os
import sys
import unicodedata
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from functools import lru_cache
from pathlib import Path

from PIL import ImageDraw, ImageFont

from p3d.system.messages import print_note

_FIRST = (
    "dejavusans.",
    "notosanscjk",
    "notosanssc",
    "sourcehansans",
    "wqy-",
    "msyh",
    "pingfang",
    "hiragino sans gb",
    "simhei",
)
"""Starts of the names of fonts that are tried first: plain ones, with many characters."""
_STYLES = ("bold", "italic", "oblique", "light", "thin", "medium", "black", "heavy", "serif")
"""Parts of the names of fonts that are tried last."""
Font = ImageFont.FreeTypeFont | ImageFont.ImageFont

_PLACEHOLDERS = "lastresort"
"""Start of the name of a font of macOS that has a box for every character."""


@lru_cache(maxsize=64)
def find_fonts(text: str) -> tuple[tuple[Path, ...], str]:
    """Find installed fonts for a text, and note on stderr if some of its characters are in none.

    Returns:
        Font files that together have its characters, a single one if possible, and the characters
        that none has.
    """
    wanted = rest = frozenset(filter(_needs_glyph, text))
    found: list[Path] = []
    for path in _installed() if wanted else ():
        able = _drawable(path, wanted)
        if able == wanted:
            return (path,), ""
        if able & rest:
            found.append(path)
            rest -= able
    if rest:
        is_cjk = any(unicodedata.east_asian_width(c) == "W" for c in rest)
        _note_missing("Noto Sans CJK" if is_cjk else "Noto Sans")
    return tuple(found), "".join(sorted(rest))


@lru_cache
def _note_missing(remedy: str) -> None:
    """Print the note once, however many pictures there are."""
    print_note(
        "no installed font has some characters of the names in pictures; install one that has "
        f"them, such as {remedy}"
    )


def text_runs(text: str, size: int) -> list[tuple[Font, str]]:
    """Cut a line into parts that one font has, with "?" for what no font has.

    Args:
        text: What to draw.
        size: Size of the fonts in pixels. Latin-1 is drawn by Pillow's own font, which has no other
            characters.
    """
    latin = text.encode("latin-1", "replace").decode("latin-1")
    found, absent = find_fonts(text) if latin != text else ((), "")
    if not found:
        return [(ImageFont.load_default(size), latin)]
    wanted = frozenset(filter(_needs_glyph, text)) - frozenset(absent)
    able = {path: _drawable(path, wanted) for path in found}
    paths = sorted(found, key=lambda path: -len(able[path]))
    parts = [(paths[0], "")]
    for character in text:
        path, part = parts[-1]
        if character in wanted and character not in able[path]:
            path, part = next(each for each in paths if character in able[each]), ""
            parts.append((path, ""))
        parts[-1] = path, part + ("?" if character in absent else character)
    return [(ImageFont.truetype(str(path), size), part) for path, part in parts if part]


def text_width(text: str, size: int) -> float:
    """Return the width of a line in pixels, as `draw_text` draws it."""
    return sum(font.getlength(part) for font, part in text_runs(text, size))


def draw_text(
    draw: ImageDraw.ImageDraw, place: tuple[float, float], text: str, size: int, color: str
) -> None:
    """Draw a line whose left upper corner is at a place, on one baseline if it takes several fonts.

    Args:
        draw: What Pillow draws with.
        place: x and y in pixels.
        text: The line; its names may be in any script.
        size: Size of the fonts in pixels.
        color: Of the text.
    """
    x, y = place
    runs = text_runs(text, size)
    rise = [_ascent(font) for font, _ in runs]
    for (font, part), own in zip(runs, rise, strict=True):
        draw.text((x, y + max(rise) - own), part, fill=color, font=font)
        x += font.getlength(part)


def _ascent(font: Font) -> int:
    """Return the height of a font above its baseline; 0 for Pillow's bitmaps."""
    return font.getmetrics()[0] if isinstance(font, ImageFont.FreeTypeFont) else 0


@contextmanager
def plot_fonts(text: str) -> Iterator[None]:
    """Let figures that matplotlib makes and renders in this context have the characters of a text.

    Installed fonts stand in for what matplotlib's font lacks.
    """
    import matplotlib as mpl
    from matplotlib.font_manager import FontProperties, findfont, fontManager, get_font

    own = get_font(findfont(FontProperties())).get_charmap()
    found, _ = find_fonts("".join(c for c in text if ord(c) not in own))
    for path in found:
        # Its list of fonts may be older than the font.
        if all(entry.fname != str(path) for entry in fontManager.ttflist):
            fontManager.addfont(path)
    families = [FontProperties(fname=path).get_name() for path in found]
    with mpl.rc_context({"font.family": [*mpl.rcParams["font.family"], *families]}), _silence():
        yield


@contextmanager
def _silence() -> Iterator[None]:
    """Keep matplotlib from remarks about single glyphs and about the weights of fonts."""
    log = logging.getLogger("matplotlib.font_manager")
    level = log.level
    log.setLevel(logging.ERROR)
    try:
        with warnings.catch_warnings():
            for message in ("Glyph .* missing from", "Matplotlib currently does not support"):
                warnings.filterwarnings("ignore", message=message)
            yield
    finally:
        log.setLevel(level)


def _needs_glyph(character: str) -> bool:
    """Return whether a character is shown by a glyph of its own, as spaces and accents are not."""
    return unicodedata.category(character)[0] not in "CMZ"


def _installed() -> list[Path]:
    """Return the font files of this machine, plain and common ones first."""
    files = {
        path
        for folder in _folders()
        for suffix in ("ttf", "ttc", "otf", "otc")
        for path in folder.rglob(f"*.{suffix}")
        if not path.name.lower().startswith(_PLACEHOLDERS)
    }
    return sorted(files, key=_rank)


def _folders() -> list[Path]:
    home = Path(os.path.expanduser("~"))  # noqa: PTH111 (Path.home() raises where there is none)
    if sys.platform == "win32":
        own = os.environ.get("LOCALAPPDATA") or str(home / "AppData/Local")
        windows = os.environ.get("WINDIR") or r"C:\Windows"
        return [Path(windows, "Fonts"), Path(own, "Microsoft/Windows/Fonts")]
    if sys.platform == "darwin":
        return [Path("/System/Library/Fonts"), Path("/Library/Fonts"), home / "Library/Fonts"]
    data = os.environ.get("XDG_DATA_DIRS") or "/usr/local/share:/usr/share"
    own = os.environ.get("XDG_DATA_HOME") or str(home / ".local/share")
    return [home / ".fonts", *(Path(each, "fonts") for each in (own, *data.split(":")) if each)]


def _rank(path: Path) -> tuple[int, bool, str]:
    name = path.name.lower()
    first = next((n for n, start in enumerate(_FIRST) if name.startswith(start)), len(_FIRST))
    return first, any(style in name for style in _STYLES), str(path)


def _drawable(path: Path, characters: frozenset[str]) -> frozenset[str]:
    """Return those of some characters that a font file has."""
    try:
        font = ImageFont.truetype(str(path), 12, layout_engine=ImageFont.Layout.BASIC)
        absent = _glyph(font, "\U0010ffff")  # no font has this, which is no character
        return frozenset(c for c in characters if _glyph(font, c) != absent)
    except (OSError, ValueError):  # damaged, or without outlines
        return frozenset()


def _glyph(font: ImageFont.FreeTypeFont, character: str) -> tuple[tuple[int, int], bytes]:
    mask = font.getmask(character)
    return mask.size, bytes(mask)
