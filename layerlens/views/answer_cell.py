"""What a view of an answer asks its model about one cell."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import replace
from itertools import zip_longest
from typing import TYPE_CHECKING, Any

import numpy as np

from layerlens.analyses.contract.cells import FOUND, Opened, Place, Table
from layerlens.analyses.contract.listeners import Silent
from layerlens.errors import InputError, LayerLensError
from layerlens.result.beside import base_name, is_beside, other_side, own_side
from layerlens.result.select import one_text
from layerlens.views.base import Reply
from layerlens.views.worker import Task

if TYPE_CHECKING:
    import xarray as xr

    from layerlens.model.lensmodel import LensModel
    from layerlens.views.answer import AnswerView
    from layerlens.views.one_run import Run

FIRST = "first"
"""What the first side is called in a cell that is opened beside another."""


def opened_cell(view: AnswerView, params: dict[str, Any], task: Task) -> Reply:
    """Answer the request ``cell``; of two sides, with both.

    It names a cell by ``{array, index, dims}``, or by ``{array, at}`` with the labels of its axes;
    or it names a token by ``{find}``.

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
    data = one_text(shown.data, view._index)
    first = _opened(view, view.model, run.inputs, run, own_side(data), params, task)
    if view.second is None or not is_beside(data):
        return first.to_dict(), []
    try:
        texts = view.second.inputs(run)
        second = _opened(view, view.second.model, texts, run, other_side(data), params, task)
        if view.second.model is not view.model:
            second = replace(second, code=second.code.replace("(model, ", "(other, ", 1))
    except LayerLensError as error:  # it has no such cell; the first side is still to be seen
        second = Opened("", tables=[Table((), [[str(error)]])])
    return laid_beside(first, second, (FIRST, view.second.label)).to_dict(), []


def _opened(
    view: AnswerView,
    model: LensModel,
    inputs: Mapping[str, Any],
    run: Run,
    data: xr.Dataset,
    params: Mapping[str, Any],
    task: Task,
) -> Opened:
    """Open the cell of one side."""
    place = _found(params) or place_of(
        data, {**params, "array": base_name(str(params.get("array")))}
    )
    return view.analysis.open(model, inputs, run.resolved, place, Stoppable(task))


def _found(params: Mapping[str, Any]) -> Place | None:
    """Return the place of what is looked for by a token; None where a cell is asked for."""
    token = params.get("find")
    if token is None:
        return None
    if not isinstance(token, int):
        raise InputError(f"What is looked for is a token's id, not {token!r}.")
    return Place("", {FOUND: token}, math.nan)


def laid_beside(first: Opened, second: Opened, labels: tuple[str, str]) -> Opened:
    """Return the content of two cells as one; what is of which side is said at each part."""
    sides = [*zip(labels, (first, second), strict=True)]
    each = [[replace(table, title=label) for table in opened.tables] for label, opened in sides]
    tables = [table for pair in zip_longest(*each) for table in pair if table is not None]
    texts = [[(f"{label}: ", 0.0), *tokens] for label, side in sides for tokens in side.texts]
    code = "\n".join(side.code for _, side in sides if side.code)
    return Opened(first.title, code, tables, texts)


def place_of(data: xr.Dataset, params: Mapping[str, Any]) -> Place:
    """Return the cell that a request names."""
    name, index = str(params.get("array")), params.get("index")
    if name not in data.data_vars:
        raise InputError(f"There is no array '{name}'; there are {', '.join(map(str, data))}.")
    array = data[name]
    dims = [str(dim) for dim in array.dims]
    if isinstance(params.get("at"), dict):
        index = [_entry(data, dim, params["at"].get(dim)) for dim in dims]
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
    labels = {dim: data[dim].values[i : i + 1].tolist()[0] if dim in data.coords else i
              for dim, i in at.items()}  # fmt: skip
    companions = {
        str(other): float(values.values[tuple(index)])
        for other, values in data.data_vars.items()
        if values.dims == array.dims and np.issubdtype(values.dtype, np.number)
    }
    answer = {str(other): values.values for other, values in data.data_vars.items()}
    return Place(name, labels, companions[name], companions, answer=answer)


def _entry(data: xr.Dataset, dim: str, label: Any) -> int | None:
    """Return where a label stands along an axis; None where it does not."""
    labels = data[dim].values.tolist() if dim in data.coords else list(range(data.sizes[dim]))
    return labels.index(label) if label in labels else None


class Stoppable(Silent):
    """Ends a question that nobody waits for any more."""

    def __init__(self, task: Task) -> None:
        self._task = task

    def cancelled(self) -> bool:
        """Whether nobody waits for it any more."""
        return self._task.cancelled
