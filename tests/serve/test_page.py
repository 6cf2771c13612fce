"""The page at `/`: whole, in two languages, and without anything from elsewhere."""

from __future__ import annotations

import io
import re
from collections.abc import Iterator
from pathlib import Path

import av
import httpx
import pytest

import p3d.serve
from helpers.services import problem, running, write_weights

FOLDER = Path(p3d.serve.__file__).parent / "page"
HTML = (FOLDER / "index.html").read_text(encoding="utf-8")


@pytest.fixture(scope="module")
def client(tmp_path_factory: pytest.TempPathFactory) -> Iterator[httpx.Client]:
    weights = write_weights(tmp_path_factory.mktemp("page") / "net.safetensors")
    with running(weights, token="s3cret") as (found, _):
        yield found


def test_the_page_and_all_that_it_loads_are_served_without_a_token(client: httpx.Client) -> None:
    page = client.get("/")
    assert page.text == HTML
    names = re.findall(r'(?:src|href)="(/[^"]+)"', HTML)
    names += [f"/page/{n}" for n in re.findall(r'from "\./([\w.]+)"', _scripts())]
    assert len(names) > 5
    for name in names:
        response = client.get(name)
        assert response.status_code == 200, name
        kind = {"js": "text/javascript", "css": "text/css", "svg": "image/svg+xml"}
        assert response.headers["content-type"].startswith(kind[name.rpartition(".")[2]])
        assert response.headers["content-security-policy"].startswith("default-src 'none'")
    assert {name.rpartition("/")[2] for name in names} | {"index.html"} == {
        path.name for path in FOLDER.iterdir()
    }
    for name in ("none.js", "..%2Fapp.py", "index.htm"):
        assert problem(client.get(f"/page/{name}"))[0] == 404


def test_nothing_comes_from_elsewhere_and_nothing_is_inline() -> None:
    text = HTML + _scripts() + (FOLDER / "style.css").read_text()
    assert set(re.findall(r"https?://[^\"'\s]+", text)) <= {"http://www.w3.org/2000/svg"}
    assert not re.search(r"<style|\sstyle=|\son\w+=|<script(?! type=\"module\" src=)", HTML)
    assert "innerHTML" not in text


def test_both_languages_have_all_words() -> None:
    words = (FOLDER / "words.js").read_text(encoding="utf-8")
    english, chinese = re.findall(r"(?ms)^  (?:en|zh): \{$(.*?)^  \},$", words)
    names = [re.findall(r"(?<![\w.])(\w+): (?:\"|\()", text) for text in (english, chinese)]
    assert names[0] == names[1]
    used = re.findall(r'data-word="(\w+)"', HTML)
    used += re.findall(r'(?<![\w.])word\("(\w+)"', _scripts())
    assert len(used) > 20
    assert set(used) <= set(names[0])


def test_everything_that_can_be_used_has_a_name() -> None:
    for field in re.findall(r"<(?:input|select)[^>]*>", HTML):
        (name,) = re.findall(r'id="([\w-]+)"', field)
        before = HTML[: HTML.index(field)]
        is_inside = before.rfind("<label") > before.rfind("</label>")
        assert is_inside or f'for="{name}"' in HTML, field
    assert all("data-word" in button for button in re.findall(r"<button[^>]*>", HTML))
    ids = re.findall(r'id="([\w-]+)"', HTML)
    assert len(ids) == len(set(ids))
    assert set(re.findall(r'\$\("([\w-]+)"\)', _scripts())) <= set(ids)


def test_sample_videos_play_in_browsers(client: httpx.Client) -> None:
    names = client.get("/samples").json()
    assert len(names) == 8
    response = client.get(f"/samples/{names[0]}")
    assert response.headers["content-type"] == "video/webm"
    with av.open(io.BytesIO(response.content)) as container:
        assert sum(1 for _ in container.decode(video=0)) == 23
    assert problem(client.get("/samples/none"))[0] == 404


def _scripts() -> str:
    return "".join(path.read_text(encoding="utf-8") for path in sorted(FOLDER.glob("*.js")))
