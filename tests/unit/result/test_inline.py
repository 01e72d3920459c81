"""A view as a piece of another page."""

from __future__ import annotations

import re
from html import unescape

import layerlens as ll
from layerlens.export.html import html_bytes
from layerlens.export.inline import Inline


def test_a_view_is_one_element_that_holds_its_page() -> None:
    lens = ll.logit_lens(ll.load("toy:induction"), "cat dog owl cat")
    view = lens.widget()
    frame = view.embed(height=200)
    (source,) = re.findall(r'srcdoc="([^"]*)"', frame.html)
    traits, packed = view._frozen()
    assert unescape(source).encode() == html_bytes(traits, packed, f"layerlens: {view._caption()}")
    assert "height:200px" in frame.html and frame.html.count("<iframe") == 1
    assert frame._repr_html_() == frame.html
    assert lens.embed().html.startswith("<iframe")


def test_titles_and_pages_cannot_leave_their_attributes() -> None:
    frame = Inline(b'<p title="a">&amp;</p>', '"><script>')
    assert "<script>" not in frame.html and '<p title="a">' not in frame.html
    assert unescape(re.findall(r'srcdoc="([^"]*)"', frame.html)[0]) == '<p title="a">&amp;</p>'
