"""The tutorial notebooks that come with the package."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any, NamedTuple

PACKAGE = Path(__file__).resolve().parents[1]


class Tutorial(NamedTuple):
    """One tutorial notebook: its name without ``.ipynb``, and its first heading."""

    name: str
    title: str


def folder() -> Path:
    """Where the notebooks are: inside an installed package, beside it in a checkout."""
    installed = PACKAGE / "notebooks"
    return installed if installed.is_dir() else PACKAGE.parent / "notebooks"


def tutorials(place: Path | None = None) -> list[Tutorial]:
    """All tutorials, in the order of their names; `place` defaults to `folder()`."""
    files = sorted((place or folder()).glob("*.ipynb"))
    return [Tutorial(path.stem, _title(_parse(path), path.stem)) for path in files]


def read(name: str, place: Path | None = None) -> dict[str, Any] | None:
    """The notebook called `name` as parsed JSON, or None if no tutorial is called so.

    `name` is compared with the names that exist and never made into a path.
    """
    for path in (place or folder()).glob("*.ipynb"):
        if path.stem == name:
            return _parse(path)
    return None


def _parse(path: Path) -> dict[str, Any]:
    notebook: dict[str, Any] = json.loads(path.read_text(encoding="utf-8"))
    return notebook


def _title(notebook: dict[str, Any], otherwise: str) -> str:
    for cell in notebook["cells"]:
        if cell["cell_type"] == "markdown":
            for line in "".join(cell["source"]).splitlines():
                if line.startswith("# "):
                    return line[2:].strip()
    return otherwise
