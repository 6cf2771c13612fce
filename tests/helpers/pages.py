"""Parsed HTML pages, for tests of the reports."""

from __future__ import annotations

import base64
import io
import re
from html.parser import HTMLParser
from pathlib import Path

from PIL import Image

VOID = {"meta", "img", "br", "link", "input", "hr", "wbr"}


class Page(HTMLParser):
    """A parsed page: its elements, its text, and the text inside each kind of element."""

    def __init__(self, path: Path) -> None:
        super().__init__()
        self.tags: list[tuple[str, dict[str, str]]] = []
        self.words: list[str] = []
        self._open: list[str] = []
        self._is_broken = False
        self.inside: dict[str, list[str]] = {}
        self.source = path.read_text(encoding="utf-8")
        self.feed(self.source)
        self.close()
        assert self._open == []

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append((tag, {name: value or "" for name, value in attrs}))
        self._is_broken = tag == "wbr"
        if tag not in VOID:
            self._open.append(tag)
            self.inside.setdefault(tag, []).append("")

    def handle_startendtag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append((tag, {name: value or "" for name, value in attrs}))

    def handle_endtag(self, tag: str) -> None:
        assert self._open.pop() == tag

    def handle_data(self, data: str) -> None:
        if "style" not in self._open:
            if self._is_broken:  # the rest of a word that may be broken here
                self.words[-1] += data
            else:
                self.words.append(data)
            self._is_broken = False
            for tag in set(self._open):
                self.inside[tag][-1] += data

    @property
    def text(self) -> str:
        return " ".join(" ".join(self.words).split())

    def all(self, tag: str) -> list[dict[str, str]]:
        return [attributes for name, attributes in self.tags if name == tag]

    @property
    def chart_titles(self) -> list[str]:
        named = [image["aria-labelledby"].split()[0] for image in self.all("svg")]
        titles = [attributes for name, attributes in self.tags if name == "title"]
        texts = zip(titles, self.inside["title"], strict=True)
        by_id = {attributes.get("id"): text for attributes, text in texts}
        return [by_id[name] for name in named]

    @property
    def pictures(self) -> list[Image.Image]:
        head = "data:image/jpeg;base64,"
        sources = [image["src"] for image in self.all("img")]
        assert all(source.startswith(head) for source in sources)
        return [Image.open(io.BytesIO(base64.b64decode(s.removeprefix(head)))) for s in sources]


def check_self_contained(page: Page) -> None:
    """Check that a page runs nothing, loads nothing, and that its links lead to its own parts."""
    for tag, attributes in page.tags:
        assert tag not in {"script", "link", "iframe", "object", "base"}
        assert not any(name.startswith("on") for name in attributes)
        for name in ("src", "href", "xlink:href"):
            assert attributes.get(name, "#").startswith(("#", "data:image/"))
    assert not re.search(r"https?:|@import|url\((?!#)", page.source)
    names = [attributes["id"] for _, attributes in page.tags if "id" in attributes]
    assert len(names) == len(set(names))
    links = re.findall(r'(?:href="#|url\(#)([^")]+)', page.source)
    assert links
    assert set(links) <= set(names)
