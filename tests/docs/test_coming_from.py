"""Each call that the page names for people of another tool, run as it stands there."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import pytest

PAGE = Path(__file__).parents[2] / "docs" / "howto" / "coming_from.md"
ROW = re.compile(r"^\| .+ \| `(?P<ours>[^`]+)`[^|`]* \|$", re.MULTILINE)
BLOCK = re.compile(r"^```python\n(.*?)^```", re.MULTILINE | re.DOTALL)

CALLS = [found["ours"] for found in ROW.finditer(PAGE.read_text())]


@pytest.fixture(scope="module")
def names() -> dict[str, Any]:
    """What the page makes before its tables."""
    made: dict[str, Any] = {}
    for block in BLOCK.findall(PAGE.read_text()):
        exec(compile(block, str(PAGE), "exec"), made)
    return made


def test_every_row_of_the_tables_is_read() -> None:
    rows = [line for line in PAGE.read_text().splitlines() if line.startswith("| ")]
    heads = [line for line in rows if line.endswith("| layerlens |") or "---" in line]
    assert len(CALLS) == len(rows) - len(heads)


@pytest.mark.parametrize("call", CALLS)
def test_it_runs(names: dict[str, Any], call: str) -> None:
    exec(call, dict(names))
