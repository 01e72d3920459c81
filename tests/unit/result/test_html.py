"""The page that needs no kernel and no network."""

from __future__ import annotations

import base64
import json
import re
from html.parser import HTMLParser
from pathlib import Path

import handmade as made
import pytest

from layerlens.errors import ResultError
from layerlens.export import html
from layerlens.export.pack import unpack


class _Page(HTMLParser):
    """Collects the scripts by id, and everything that could load something."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.scripts: dict[str, str] = {}
        self.tags: list[str] = []
        self.addresses: list[str] = []
        self._script: str | None = None
        self.feed(text)
        self.close()

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        found = dict(attrs)
        self.tags.append(tag)
        self.addresses += [str(found[name]) for name in ("src", "href", "data") if name in found]
        if tag == "script":
            self._script = found.get("id") or "host"
            self.scripts[self._script] = ""

    def handle_endtag(self, tag: str) -> None:
        self._script = None if tag == "script" else self._script

    def handle_data(self, data: str) -> None:
        if self._script is not None:
            self.scripts[self._script] += data


@pytest.fixture
def built(tmp_path: Path, monkeypatch) -> None:
    """A front end of our own making, with everything that could break out of its element."""
    folder = tmp_path / "static"
    folder.mkdir()
    (folder / "index.css").write_text('.layerlens::after { content: "</style><img>"; }')
    (folder / "host.js").write_text('const a = "</script><!--<script>", b = 1 < 2;')
    monkeypatch.setattr(html, "STATIC", folder)


@pytest.mark.usefixtures("built")
def test_page_is_whole_and_loads_nothing(tmp_path: Path) -> None:
    result = made.result()
    result.data.attrs["model"] = "</title><script>alert(1)</script>"
    path = result.html(tmp_path / "a.html")
    text = path.read_text(encoding="utf-8")
    page = _Page(text)
    assert page.addresses == []
    assert not re.search(r"https?://|@import|url\(", text)
    assert set(page.scripts) == {"layerlens-data", "host"}
    assert page.tags.count("script") == 2
    assert "img" not in page.tags
    assert page.scripts["host"] == r'const a = "\x3c/script>\x3c!--\x3cscript>", b = 1 < 2;'
    assert "default-src 'none'" in text
    assert text.count("</html>") == 1


@pytest.mark.usefixtures("built")
def test_data_of_the_page(tmp_path: Path) -> None:
    result = made.result()
    result.data["token"] = result.data["token"].copy(
        data=["</script>", "<!--", "\u2028", "\u2029", "&amp;", "שלום", "👍", "\n", "\\"]
    )
    page = _Page(result.html(tmp_path / "a.html", theme="dark").read_text(encoding="utf-8"))
    raw = page.scripts["layerlens-data"]
    assert raw.isascii()
    assert "<" not in raw
    traits = json.loads(raw)["traits"]
    assert traits["live"] is False
    assert traits["theme"] == "dark"
    assert traits["row"] == 7
    assert traits["status"]["state"] == "done"
    assert [token["text"] for token in traits["meta"]["tokens"]][:3] == [
        "</script>",
        "<!--",
        "\u2028",
    ]
    meta, [(header, arrays)] = unpack(base64.b64decode(json.loads(raw)["packed"]))
    assert meta == traits["meta"]
    assert len(arrays) == len(header["arrays"]) >= 8


@pytest.mark.usefixtures("built")
def test_one_text_of_several(tmp_path: Path) -> None:
    page = _Page(made.batch().html(tmp_path / "a.html", text=1).read_text(encoding="utf-8"))
    assert len(json.loads(page.scripts["layerlens-data"])["traits"]["meta"]["tokens"]) == 6


@pytest.mark.usefixtures("built")
def test_wrong_arguments(tmp_path: Path) -> None:
    with pytest.raises(ResultError, match="no theme 'blue'"):
        made.result().html(tmp_path / "a.html", theme="blue")
    with pytest.raises(ResultError, match=r"must end in \.html or \.htm"):
        made.result().html(tmp_path / "a.txt")


def test_front_end_not_built(tmp_path: Path, monkeypatch) -> None:
    monkeypatch.setattr(html, "STATIC", tmp_path / "nowhere")
    with pytest.raises(ResultError, match="make build"):
        made.result().html(tmp_path / "a.html")
    assert list(tmp_path.iterdir()) == []
