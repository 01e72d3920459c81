"""What a model wrote as a figure: its tokens across, points upwards, as in the table of a lens."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np

from layerlens.errors import ResultError
from layerlens.figures.lens import lens_figure

if TYPE_CHECKING:
    import xarray as xr
    from matplotlib.figure import Figure


def generation_figure(
    data: xr.Dataset, *, color: str = "written", title: str | None = None, **options: Any
) -> Figure:
    """Draw what each point would have written.

    Parameters
    ----------
    data : xarray.Dataset
        The data of ``ll.generation_lens`` of one text.
    color : {"written", "probability", "entropy", "margin", "rank", "kl"}
        What the cells' colour shows; ``written`` is the probability of the written token.
    title : str, optional
        Instead of the model's name and the question.
    **options
        As in `layerlens.figures.lens.lens_figure`; positions are steps.

    Returns
    -------
    matplotlib.figure.Figure

    Raises
    ------
    ResultError
        An option is unknown, or nothing was written.
    """
    if "step" not in data.dims or "written_id" not in data:
        raise ResultError("This result is of nothing that was written: it has no axis 'step'.")
    there = data.isel(step=np.flatnonzero(data["written_id"].values >= 0))
    name = str(data.attrs.get("model", "")) or "the model"
    words = f"What {name} would have written after each point" if title is None else title
    renamed = there.rename(step="position")
    return lens_figure(renamed, color=color, title=words, **options)
