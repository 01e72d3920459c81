"""The notebooks that come with the package: the guide's, and the chapters of the course."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any, NamedTuple

from layerlens.course.copies import student
from layerlens.course.places import guide

COURSE = "course"
"""The folder of the chapters, which a chapter's name begins with."""


class Tutorial(NamedTuple):
    """One notebook: its name without ``.ipynb``, and its first heading."""

    name: str
    title: str


def tutorials(place: Path | None = None) -> list[Tutorial]:
    """The guide, then the course, in the order of their names; `place` defaults to `guide()`."""
    return [Tutorial(name, _title(_parse(path), name)) for name, path in _named(place).items()]


def read(name: str, place: Path | None = None) -> dict[str, Any] | None:
    """The notebook called `name` as parsed JSON, or None if none is called so.

    Of a chapter it is the copy for students. `name` is compared with the names that exist and
    never made into a path.
    """
    path = _named(place).get(name)
    if path is None:
        return None
    return student(_parse(path)) if name.startswith(f"{COURSE}/") else _parse(path)


def _named(place: Path | None) -> dict[str, Path]:
    folder = place or guide()
    chapters = sorted((folder / COURSE).glob("*.ipynb"))
    return {path.stem: path for path in sorted(folder.glob("*.ipynb"))} | {
        f"{COURSE}/{path.stem}": path for path in chapters
    }


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
