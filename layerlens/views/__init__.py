"""Widgets and their live jobs; they show what analyses compute and compute nothing themselves."""

from __future__ import annotations

from typing import TYPE_CHECKING

from layerlens.export.twins import view_for
from layerlens.views.answer import CurvesView, GridView
from layerlens.views.attention import AttentionView
from layerlens.views.feature import FeatureView
from layerlens.views.generation import GenerationView
from layerlens.views.graph import GraphView
from layerlens.views.lens import LensView
from layerlens.views.metrics import MetricsView
from layerlens.views.patch import PatchView
from layerlens.views.scatter import ScatterView
from layerlens.views.strip import StripView

if TYPE_CHECKING:
    from layerlens.result import Result
    from layerlens.views.live import LiveView

__all__ = [
    "AttentionView",
    "CurvesView",
    "FeatureView",
    "GenerationView",
    "GraphView",
    "GridView",
    "LensView",
    "MetricsView",
    "PatchView",
    "ScatterView",
    "StripView",
    "view_of",
]

VIEWS: dict[str, type[LiveView]] = {
    "attention": AttentionView,
    "curves": CurvesView,
    "feature": FeatureView,
    "generation": GenerationView,
    "graph": GraphView,
    "grid": GridView,
    "lens": LensView,
    "metrics": MetricsView,
    "panels": CurvesView,
    "patch": PatchView,
    "scatter": ScatterView,
    "strip": StripView,
}


def view_of(result: Result, *, text: int = 0) -> LiveView:
    """Return the view of a result: live while its model is there, else frozen."""
    return VIEWS[view_for(result.data)].from_result(result, text=text)
