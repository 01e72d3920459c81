"""What the scatter needs to know beside the numbers: which arrays are coordinates, marks, words."""

from __future__ import annotations

from collections.abc import Iterable
from typing import TYPE_CHECKING, Any, cast

from layerlens.export.answer_meta import AnswerMeta, answer_meta_of
from layerlens.result.scatter import Scatter, scatter_of

if TYPE_CHECKING:
    import xarray as xr

    from layerlens.result.checks import Check


class ScatterMeta(AnswerMeta):
    """The ``meta`` trait of the scatter."""

    scatter: Scatter


def scatter_meta_of(data: xr.Dataset, checks: Iterable[Check] = (), run: int = 1) -> ScatterMeta:
    """Build the ``meta`` trait; see `layerlens.export.answer_meta.answer_meta_of`."""
    return with_scatter(answer_meta_of(data, checks, run), data)


def with_scatter(meta: Any, data: xr.Dataset) -> ScatterMeta:
    """Return the meta of an answer with what its scatter is made of."""
    found = scatter_of(data)
    axes = {name: dict(axis) for name, axis in meta["axes"].items()}
    if found["colors"] != "depth":
        axes[found["items"]]["labels"] = []  # they are the words, and no array is drawn over them
    return cast(ScatterMeta, {**meta, "axes": axes, "scatter": found})
