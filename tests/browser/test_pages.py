"""A notebook as one offline page: figures in it are handled and questions answered."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from pathlib import Path

import pytest
from conftest import notebook
from driver import visit
from playwright.sync_api import Browser, expect

import layerlens as ll
from layerlens.errors import InputError

LOAD = "import layerlens as ll\nfrom layerlens import course\nmodel = ll.load('toy:induction')"
LENS = "ll.LensView(model, 'cat dog owl cat')"
ASKED = """course.predict(
    "settles", "After which layer?", kind="layer", model=model, truth=1,
    reveal=lambda: ll.ablate_sweep(model, 'cat dog owl cat'))"""


def test_a_notebook_as_a_page(chrome: Browser, tmp_path: Path) -> None:
    source = tmp_path / "chapter.ipynb"
    source.write_text(notebook(LOAD, LENS, ASKED))
    before = source.read_text()
    path = ll.export_notebook(source)
    assert path == tmp_path / "chapter.html" and source.read_text() == before
    with visit(chrome, offline=True, color_scheme="dark") as opened:
        page = opened.page
        page.goto(path.as_uri())
        policy = page.locator("meta[http-equiv=Content-Security-Policy]").first
        expect(policy).to_have_attribute("content", re.compile("default-src 'none'"))
        lens, asked = (page.frame_locator("iframe").nth(i) for i in (0, 1))
        slider = lens.get_by_role("slider", name="Layer")
        slider.fill("0")
        expect(lens.locator(".ll-slider output")).to_have_text("embed")
        # The page around is light, whatever the system is.
        expect(lens.locator(".ll-view")).to_have_attribute("data-theme", "light")
        high = page.locator("iframe").first.evaluate("frame => frame.clientHeight")
        inside = lens.locator("body").evaluate("body => body.scrollHeight")
        assert abs(high - inside) <= 2
        expect(asked.get_by_role("grid")).to_have_count(0)
        asked.get_by_role("spinbutton").fill("0")
        asked.get_by_role("button", name="Answer").click()
        expect(asked.get_by_role("status").first).to_contain_text("it is layer 1")
        expect(asked.locator(".ll-course-figure .ll-view")).to_be_visible()
        assert opened.external == [] and opened.errors == []


BOOK = f"""---
file_format: mystnb
kernelspec:
  name: python3
---
# A chapter

```{{code-cell}}
{LOAD}
{LENS}
```

```{{code-cell}}
{ASKED}
```
"""


def test_a_page_of_a_book(chrome: Browser, tmp_path: Path) -> None:
    (tmp_path / "conf.py").write_text("extensions = ['myst_nb']\nnb_execution_mode = 'force'\n")
    (tmp_path / "index.md").write_text(BOOK)
    subprocess.run(
        [sys.executable, "-m", "sphinx", "-W", "-q", "-b", "html", tmp_path, tmp_path / "site"],
        env={**os.environ, "LAYERLENS_EMBED": "1"},
        check=True,
    )
    with visit(chrome, offline=True) as opened:
        page = opened.page
        page.goto((tmp_path / "site" / "index.html").as_uri())
        lens, asked = (page.frame_locator("iframe").nth(i) for i in (0, 1))
        lens.get_by_role("slider", name="Layer").fill("0")
        expect(lens.locator(".ll-slider output")).to_have_text("embed")
        asked.get_by_role("spinbutton").fill("0")
        asked.get_by_role("button", name="Answer").click()
        expect(asked.get_by_role("status").first).to_contain_text("it is layer 1")
        assert opened.errors == [] and all("layerlens" not in url for url in opened.external)


def test_a_cell_that_raises_is_told_and_no_page_is_written(tmp_path: Path) -> None:
    source = tmp_path / "broken.ipynb"
    source.write_text(notebook("1 / 0"))
    with pytest.raises(InputError, match="ZeroDivisionError: division by zero"):
        ll.export_notebook(source)
    assert not (tmp_path / "broken.html").exists()
    source.write_text("{")
    with pytest.raises(InputError, match="could not be read"):
        ll.export_notebook(source)
