"""Widgets and their live jobs; they show what analyses compute and compute nothing themselves."""

from __future__ import annotations

from typing import TYPE_CHECKING

from layerlens.export.twins import has_view
from layerlens.views.lens import LensView
from layerlens.views.metrics import MetricsView
from layerlens.views.patch import PatchView
from layerlens.views.still import Still

if TYPE_CHECKING:
    from layerlens.result import Result
    from layerlens.views.live import LiveView

__all__ = ["LensView", "MetricsView", "PatchView", "view_of"]

VIEWS: dict[str, type[LiveView]] = {
    "lens": LensView,
    "metrics": MetricsView,
    "patch": PatchView,
}


def view_of(result: Result, *, text: int = 0) -> LiveView | Still:
    """Return the view of a result: live while its model is there, else frozen.

    A result that no widget shows comes as its figure.
    """
    if not has_view(result.data):
        return Still(result, text)
    return VIEWS[result.view].from_result(result, text=text)
