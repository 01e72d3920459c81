"""One token at one position through all layers: probability and rank, asked for by a pin."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np

from layerlens.analyses.contract.listeners import Silent
from layerlens.errors import InputError

if TYPE_CHECKING:
    import xarray as xr

    from layerlens.views.lens import LensView
    from layerlens.views.one_run import Run
    from layerlens.views.worker import Task


class Track(NamedTuple):
    """A trajectory, or one through each of several lenses; None where there is no value."""

    probability: list[Any]
    rank: list[Any]


class Tracks:
    """Trajectories of the present run that were computed already."""

    def __init__(self) -> None:
        self._run = 0
        self._known: dict[tuple[int, int], Track] = {}

    def get(self, view: LensView, run: Run, params: dict[str, Any], task: Task) -> Track:
        """Return the trajectory of a token, from the result if it has it.

        Raises
        ------
        InputError
            There is no such position or token.
        """
        if run.number != self._run:
            self._run, self._known = run.number, {}
        position, token = _checked(view, run, params)
        key = position, token
        if key not in self._known:
            result = run.result
            held = None if result is None else _read(result.data, position, token)
            self._known[key] = held or _compute(view, run, position, token, task)
        return self._known[key]


class _Stoppable(Silent):
    def __init__(self, task: Task) -> None:
        self._task = task

    def cancelled(self) -> bool:
        return self._task.cancelled


def _checked(view: LensView, run: Run, params: dict[str, Any]) -> tuple[int, int]:
    position, token = int(params["position"]), int(params["id"])
    length = run.tokens["text"].lengths[0]
    if not -length <= position < length:
        raise InputError(f"There is no token {position}; the text has {length}, counted from 0.")
    if view.model is not None and not 0 <= token < view.model.d_vocab:
        raise InputError(f"There is no token id {token}; the vocabulary has {view.model.d_vocab}.")
    return position % length, token


def _compute(view: LensView, run: Run, position: int, token: int, task: Task) -> Track:
    options = {**run.resolved, "tracked": [token], "positions": [position], "top_k": 1}
    result = view.analysis.run(view.model, run.tokens["text"], options, _Stoppable(task))  # type: ignore[arg-type]
    found = _read(result.data, position, token)
    if found is None:
        raise InputError(f"The model gave no trajectory of token {token} at {position}.")
    return found


def _read(data: xr.Dataset, position: int, token: int) -> Track | None:
    if "tracked" not in data.coords or "batch" in data.dims:
        return None
    tokens = data["tracked"].values.tolist()
    positions = data["position"].values.tolist()
    if token not in tokens or position not in positions:
        return None
    where = {"tracked": tokens.index(token), "position": positions.index(position)}
    probability = data["tracked_probability"].isel(where).values
    ranks = data["tracked_rank"].isel(where).values
    return Track(
        _known(probability, ~np.isnan(probability)),
        _known(ranks, ranks >= 1),
    )


def _known(values: np.ndarray, known: np.ndarray) -> list[Any]:
    """Return nested lists with None where nothing is known."""
    plain = values.astype(object)
    plain[~known] = None
    return list(plain.tolist())
