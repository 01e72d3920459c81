"""The documentation is built without a warning: no broken link, no page that is left out."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).parents[2]


def test_it_is_built_without_a_warning_and_asks_the_net_for_nothing(tmp_path: Path) -> None:
    call = [sys.executable, "-m", "sphinx", "-W", "--keep-going", "-q", "-d", tmp_path / "trees"]
    done = subprocess.run(
        [*call, "-b", "html", ROOT / "docs", tmp_path / "site"],
        env={**os.environ, "DOCS_RUN": "0"},
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    pages = {page: page.read_text() for page in (tmp_path / "site").rglob("*.html")}
    assert len(pages) > 40
    for page, text in pages.items():
        for tag in ('<script src="http', '<link rel="stylesheet" href="http', '<img src="http'):
            assert tag not in text, page
