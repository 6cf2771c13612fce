"""The looks of a training run's report: its style sheet and the pieces that its page is made of."""

from __future__ import annotations

import base64
import html
import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from p3d.errors import printable

NOTHING = "—"
"""Stands where there is no number."""

STYLE = """
:root { color-scheme: light; --ink: #1c2430; --soft: #5a6372; --line: #e1e5ec; --wash: #f6f7f9;
  --blue: #2f6db5; --green: #1d7a4c; --amber: #9a5b00; --red: #b3312c; }
* { box-sizing: border-box; }
body { margin: 0; background: #fff; color: var(--ink); font: 15px/1.5 system-ui, -apple-system,
  "Segoe UI", Roboto, "Helvetica Neue", Arial, "Noto Sans", "Liberation Sans", sans-serif; }
main { max-width: 1120px; margin: 0 auto; padding: 40px 32px 64px; }
h1, h2, h3, p, figure, ul { margin: 0; }
h1 { font-size: 30px; line-height: 1.2; letter-spacing: -0.015em; font-weight: 650; }
h2 { font-size: 20px; letter-spacing: -0.01em; font-weight: 650; margin: 56px 0 10px; }
h3 { font-size: 15px; font-weight: 620; margin: 0; }
.lead, .note, figcaption { color: var(--soft); }
.lead { margin-top: 6px; overflow-wrap: anywhere; }
.note { margin: -6px 0 16px; max-width: 62em; }
.title { display: flex; flex-wrap: wrap; gap: 8px 14px; align-items: center; }
.state { font-size: 13px; font-weight: 600; border-radius: 99px; padding: 3px 12px;
  background: #fdf1dc; color: var(--amber); }
.state.done { background: #e2f3ea; color: var(--green); }
.tiles { display: flex; flex-wrap: wrap; gap: 1px;
  margin: 28px 0 0; background: var(--line); border: 1px solid var(--line); border-radius: 10px;
  overflow: hidden; }
.tiles div { flex: 1 1 150px; background: #fff; padding: 14px 18px 13px; }
.tiles dt { color: var(--soft); font-size: 13px; }
.tiles dd { margin: 2px 0 0; font-size: 25px; line-height: 1.25; font-weight: 620;
  letter-spacing: -0.015em; font-variant-numeric: tabular-nums; }
.tiles small { display: block; font-size: 13px; line-height: 1.4; font-weight: 400;
  letter-spacing: 0; color: var(--soft); }
.notices { list-style: none; padding: 10px 16px; margin-top: 20px; border-left: 3px solid #e0a030;
  background: #fdf8ee; border-radius: 0 8px 8px 0; overflow-wrap: anywhere; }
.pair { display: grid; grid-template-columns: repeat(2, minmax(0, 1fr)); gap: 32px 36px;
  margin-top: 18px; align-items: start; }
figure svg { display: block; width: 100%; height: auto; margin-top: 6px; }
figure svg * { stroke-linejoin: round; stroke-linecap: butt; }
figure svg text { font-family: system-ui, -apple-system, "Segoe UI", Roboto, Arial, "Noto Sans",
  "Liberation Sans", sans-serif !important; font-variant-numeric: tabular-nums; }
figcaption { font-size: 13px; line-height: 1.4; }
.scroll { overflow: auto; max-height: 560px; border: 1px solid var(--line); border-radius: 8px; }
table { border-collapse: collapse; width: 100%; font-size: 14px;
  font-variant-numeric: tabular-nums; }
th, td { padding: 6px 12px; text-align: right; vertical-align: baseline; white-space: nowrap; }
th { white-space: normal; vertical-align: bottom; line-height: 1.3;
  position: sticky; top: 0; background: var(--wash); color: var(--soft); font-weight: 550;
  font-size: 13px; }
td { border-top: 1px solid var(--line); }
tr:first-child > td { border-top: 0; }
.text { text-align: left; }
td.text { white-space: normal; overflow-wrap: anywhere; }
tr.best td { background: #f0f5fc; font-weight: 600; }
.muted { color: #69717f; }
meter { width: 72px; height: 9px; margin-left: 10px; vertical-align: 1px; }
meter::-webkit-meter-bar { background: #edf0f4; border: 0; border-radius: 5px; height: 9px; }
meter::-webkit-meter-optimum-value { background: var(--blue); border-radius: 5px; }
meter::-moz-meter-bar { background: var(--blue); border-radius: 5px; }
.cards { display: grid; grid-template-columns: repeat(2, minmax(0, 1fr)); gap: 22px 36px;
  margin: 12px 0 32px; }
.cards img { display: block; width: 100%; max-height: 140px; object-fit: contain;
  object-position: left; border-radius: 6px; background: #fff; }
.cards figcaption { margin-top: 6px; color: var(--ink); overflow-wrap: anywhere; }
.cards .gone { padding: 14px 16px; border: 1px dashed #c9cfd9; border-radius: 6px;
  color: var(--soft); font-size: 13px; overflow-wrap: anywhere; }
.cards span { display: block; color: var(--soft); }
.right { color: var(--green); } .wrong { color: var(--red); }
.options + .options { margin-top: 28px; }
.after { margin: 28px 0 10px; }
.pair h3 + .scroll { margin-top: 12px; max-height: 420px; }
.pair .options .scroll { max-height: none; }
.options td { padding: 4px 12px; font-size: 13px; }
.options td:first-child { color: var(--soft); width: 40%; }
footer { margin-top: 56px; padding-top: 14px; border-top: 1px solid var(--line); font-size: 13px;
  color: var(--soft); overflow-wrap: anywhere; }
@media (max-width: 820px) { main { padding: 24px 16px 48px; }
  .pair, .cards { grid-template-columns: minmax(0, 1fr); } }
@media print { .scroll { max-height: none; } figure, tr { break-inside: avoid; } }
"""


@dataclass(frozen=True)
class Html:
    """Text that is HTML already; all other text is escaped on its way into the page."""

    text: str


def share(value: float) -> str:
    """A share in [0, 1] as a percentage."""
    return f"{value:.1%}" if math.isfinite(value) else NOTHING


def decimal(value: float) -> str:
    """A number such as a loss."""
    return f"{value:.3f}" if math.isfinite(value) else NOTHING


def count(value: float) -> str:
    """A whole number."""
    return f"{value:,.0f}" if math.isfinite(value) else NOTHING


def rate(value: float) -> str:
    """So many a second."""
    return f"{value:,.1f}" if math.isfinite(value) else NOTHING


def duration(seconds: float) -> str:
    """A time in the two units that matter."""
    if not math.isfinite(seconds):
        return NOTHING
    if seconds < 60:
        return f"{seconds:.3g} s"
    minutes, rest = divmod(round(seconds), 60)
    if minutes < 60:
        return f"{minutes} min {rest} s"
    hours, minutes = divmod(minutes, 60)
    return f"{hours} h {minutes} min" if hours < 48 else f"{hours // 24} d {hours % 24} h"


def escape(value: object) -> str:
    """A value as HTML: what is no `Html` is escaped, and made printable."""
    return value.text if isinstance(value, Html) else html.escape(printable(value))


def table(
    header: Sequence[str],
    rows: Iterable[Sequence[object]],
    *,
    text: Sequence[int] = (0,),
    best: int | None = None,
) -> str:
    """A table that scrolls where it is long: numbers to the right, the columns `text` to the left.

    Args:
        header: A heading a column; none at all where it is empty.
        rows: The cells.
        text: Columns of text.
        best: The row to stress.
    """

    def cells(row: Sequence[object], tag: str) -> str:
        return "".join(
            f"<{tag}{' class=text' if place in text else ''}>{escape(cell)}</{tag}>"
            for place, cell in enumerate(row)
        )

    head = f"<thead><tr>{cells(header, 'th')}</tr></thead>" if header else ""
    body = "\n".join(
        f"<tr{' class=best' if place == best else ''}>{cells(row, 'td')}</tr>"
        for place, row in enumerate(rows)
    )
    return (
        f'<div class="scroll" tabindex="0"><table>{head}<tbody>\n{body}\n</tbody></table></div>\n'
    )


def tiles(entries: Iterable[tuple[str, str, str]]) -> str:
    """Headline figures: what it is, the figure, and a remark."""
    parts = (
        f"<div><dt>{escape(what)}</dt><dd>{escape(figure)}<small>{escape(remark)}</small></dd></div>"
        for what, figure, remark in entries
    )
    return f'<dl class="tiles">\n{"".join(parts)}\n</dl>\n'


def notices(lines: Sequence[str]) -> str:
    """Lines that a reader should not miss; nothing where there are none."""
    if not lines:
        return ""
    return f'<ul class="notices">{"".join(f"<li>{escape(line)}</li>" for line in lines)}</ul>\n'


def section(title: str, note: str, *parts: str) -> str:
    """A part of the page."""
    said = f'<p class="note">{escape(note)}</p>' if note else ""
    return "\n".join([f"<section>\n<h2>{escape(title)}</h2>", said, *parts, "</section>\n"])


def chart(title: str, caption: str, svg: str) -> str:
    """A figure under its heading."""
    return (
        f"<figure><h3>{escape(title)}</h3><figcaption>{escape(caption)}</figcaption>{svg}</figure>"
    )


def jpeg_image(data: bytes, words: str) -> str:
    """A picture that is in the page itself."""
    encoded = base64.b64encode(data).decode()
    return f'<img src="data:image/jpeg;base64,{encoded}" alt="{escape(words)}">'


def document(title: str, body: str) -> str:
    """The whole document."""
    return (
        '<!doctype html>\n<html lang="en">\n<head>\n<meta charset="utf-8">\n'
        '<meta name="viewport" content="width=device-width, initial-scale=1">\n'
        f"<title>{escape(title)}</title>\n<style>{STYLE}</style>\n</head>\n"
        f"<body>\n<main>\n{body}</main>\n</body>\n</html>\n"
    )
