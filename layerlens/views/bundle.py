"""The front end's scripts, one a view, and its style sheet, as text."""

from __future__ import annotations

import os
from functools import cache
from pathlib import Path
from typing import Any

from layerlens.errors import LayerLensError

FILES = {"grid": "answer", "curves": "answer"}
"""View to the name of its script, where that is another one."""

STATIC = Path(__file__).resolve().parent.parent / "static"


def script(view: str) -> Any:
    """Return the script of a view; a watched file where ``ANYWIDGET_HMR=1`` asks for hot reload."""
    return _load(f"{FILES.get(view, view)}.js")


def style() -> Any:
    """Return the style sheet; a watched file where ``ANYWIDGET_HMR=1`` asks for hot reload."""
    return _load("index.css")


def _load(name: str) -> Any:
    if os.environ.get("ANYWIDGET_HMR") == "1":
        from anywidget._util import try_file_contents

        # A watched file keeps every closed widget alive, so it is for front-end work only.
        return try_file_contents(STATIC / name)
    return _read(name)


@cache
def _read(name: str) -> str:
    try:
        return (STATIC / name).read_text(encoding="utf-8")
    except OSError:
        raise LayerLensError(
            f"The front end of layerlens is missing ('{STATIC / name}' cannot be read): "
            "install layerlens from a wheel, or run 'make build' in the checkout."
        ) from None
