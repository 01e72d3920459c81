"""What a view of an answer asks its model about one cell."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np

from layerlens.analyses.contract.cells import Place
from layerlens.analyses.contract.listeners import Silent
from layerlens.errors import InputError
from layerlens.views.base import Reply
from layerlens.views.worker import Task

if TYPE_CHECKING:
    import xarray as xr

    from layerlens.views.answer import AnswerView


def opened_cell(view: AnswerView, params: dict[str, Any], task: Task) -> Reply:
    """Answer the request ``cell``: ``{array, index, dims}``.

    Raises
    ------
    InputError
        There is no such cell, or the picture is about to change.
    """
    run, shown = view._pictured, view._partial or view._result
    if view.model is None or run is None or shown is None:
        raise InputError("There is no picture yet to open a cell of.")
    if run is not view._run:
        raise InputError("The picture is about to change; ask again when it has.")
    from layerlens.result.beside import is_beside
    from layerlens.result.select import one_text

    if is_beside(shown.data):
        raise InputError("Cells open nothing where two answers lie beside each other.")
    place = place_of(one_text(shown.data, view._index), params)
    inputs, options = run.inputs, run.resolved
    found = view.analysis.open(view.model, inputs, options, place, _Stoppable(task))
    return found.to_dict(), []


def place_of(data: xr.Dataset, params: dict[str, Any]) -> Place:
    """Return the cell that a request names."""
    name, index = str(params.get("array")), params.get("index")
    if name not in data.data_vars:
        raise InputError(f"There is no array '{name}'; there are {', '.join(map(str, data))}.")
    array = data[name]
    dims = [str(dim) for dim in array.dims]
    sizes = array.shape
    if (
        not isinstance(index, list)
        or len(index) != len(dims)
        or list(params.get("dims") or dims) != dims
        or not all(isinstance(i, int) and 0 <= i < n for i, n in zip(index, sizes, strict=True))
    ):
        raise InputError(
            f"A cell of {name} is an index along each of {', '.join(dims)} (up to "
            f"{', '.join(str(size - 1) for size in sizes)}), not {index!r}."
        )
    at = dict(zip(dims, index, strict=True))
    labels = {dim: data[dim].values[i].item() if dim in data.coords else i
              for dim, i in at.items()}  # fmt: skip
    companions = {
        str(other): float(values.values[tuple(index)])
        for other, values in data.data_vars.items()
        if values.dims == array.dims and np.issubdtype(values.dtype, np.number)
    }
    answer = {str(other): values.values for other, values in data.data_vars.items()}
    return Place(name, labels, companions[name], companions, answer=answer)


class _Stoppable(Silent):
    def __init__(self, task: Task) -> None:
        self._task = task

    def cancelled(self) -> bool:
        """Whether nobody waits for it any more."""
        return self._task.cancelled
