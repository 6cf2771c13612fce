"""How values are shown on the pages."""

from __future__ import annotations

from p3d.report.render import breakable


def test_names_may_be_broken_between_their_words_alone() -> None:
    assert breakable("MoveTogether") == "Move<wbr>Together"
    assert breakable("v_YoYo_g01.avi") == "v_<wbr>Yo<wbr>Yo_<wbr>g01.avi"
    assert breakable("TV set __ x") == "TV set __<wbr> x"


def test_names_stay_text() -> None:
    assert breakable("a<B>&\n") == "a&lt;B&gt;&amp;\\n"
