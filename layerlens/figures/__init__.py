"""The views as matplotlib figures, for papers and for hosts that show no widgets.

Nothing here goes through pyplot: a figure belongs to who asked for it, and no backend of the
user's is touched. matplotlib is imported when the first figure is drawn.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

from layerlens.errors import ResultError

if TYPE_CHECKING:
    import xarray as xr
    from matplotlib.figure import Figure

FIGURES = {
    "attention": "layerlens.figures.attention:attention_figure",
    "feature": "layerlens.figures.feature:feature_figure",
    "generation": "layerlens.figures.generation:generation_figure",
    "graph": "layerlens.figures.graph:graph_figure",
    "lens": "layerlens.figures.lens:lens_figure",
    "patch": "layerlens.figures.grid:grid_figure",
    "grid": "layerlens.figures.grid:grid_figure",
    "metrics": "layerlens.figures.metrics:metrics_figure",
    "panels": "layerlens.figures.metrics:metrics_figure",
    "scatter": "layerlens.figures.scatter:scatter_figure",
    "strip": "layerlens.figures.strip:strip_figure",
    "curves": "layerlens.figures.curves:curves_figure",
    "trajectories": "layerlens.figures.trajectories:trajectories_figure",
}
"""View or kind of figure -> the function that draws the data of one text."""

_QUICK_CELLS = 800  # texts take most of the time: about 0.6 ms a cell


def quick(view: str, data: xr.Dataset, **options: Any) -> Figure:
    """Return the figure of a view for display beside a widget, in well under a second.

    A long lens is drawn after whole blocks only; the figure says so.
    """
    cells = data.sizes.get("point", 0) * data.sizes.get("position", 0)
    if view == "lens" and cells > _QUICK_CELLS:
        options.setdefault("points", "post")
    return draw(view, data, **options)


def draw(view: str, data: xr.Dataset, **options: Any) -> Figure:
    """Return the figure of a view.

    Raises
    ------
    ResultError
        No figure has that name, or `data` lack what it needs.
    """
    if view not in FIGURES:
        raise ResultError(f"There is no figure '{view}'; choose one of {', '.join(FIGURES)}.")
    module, _, function = FIGURES[view].partition(":")
    figure: Figure = getattr(import_module(module), function)(data, **options)
    return figure
