"""Widgets and their live jobs; they show what analyses compute and compute nothing themselves."""

from __future__ import annotations

from typing import TYPE_CHECKING

from layerlens.errors import ResultError
from layerlens.views.lens import LensView

if TYPE_CHECKING:
    from layerlens.result import Result
    from layerlens.views.base import View

__all__ = ["LensView", "view_of"]

VIEWS = {"lens": LensView}


def view_of(result: Result, *, text: int = 0) -> View:
    """Return the view of a result, live while its model is there.

    Raises
    ------
    ResultError
        No view shows results of this kind.
    """
    if result.view not in VIEWS:
        raise ResultError(f"No view shows '{result.view}'; there are {', '.join(VIEWS)}.")
    return VIEWS[result.view].from_result(result, text=text)
