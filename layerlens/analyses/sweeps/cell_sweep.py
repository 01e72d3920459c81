"""Many edited runs of one text as the cells of a grid: planned, run, streamed, verified."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from functools import cached_property
from typing import TYPE_CHECKING

import numpy as np

from layerlens.analyses.answers.answer_metric import Metric
from layerlens.analyses.contract.contract import Job
from layerlens.analyses.contract.tolerances import logit_tolerance
from layerlens.model.evidence import logit_size
from layerlens.run.base import Base
from layerlens.run.cell import Cell
from layerlens.run.many_edits import DEFAULT_LIMIT, Method, run_cells, sweep_method
from layerlens.run.packed import waves

if TYPE_CHECKING:
    from torch import Tensor

    from layerlens.model.lensmodel import LensModel

Place = Mapping[str, int]
"""Axis to index, in the order of the axes."""

Show = Callable[[np.ndarray], Mapping[str, np.ndarray]]
"""From values of the metric [n] float64 to the arrays of the result, [n] each."""


LOGIT_ROUNDING = 1e-6
"""Of the largest logit: whole logits are float32 whatever the model's dtype."""

FEW_CELLS = 12
"""So few that finding the strongest first would take as long as running them all."""


class Sweep:
    """The cells of one grid, all of them edits of one base run.

    Cells are added with their place in the grid, then run in one go: each finished wave is
    pushed to the job at once, so a sweep that is stopped keeps what it has.

    Parameters
    ----------
    job, model
        As the analysis got them.
    base
        The unedited run.
    metric
        What is measured of each cell.
    show
        Turns values of the metric into the arrays of the result.
    lead
        Where all cells of this sweep are: ``{"batch": 3}`` for one text of several.
    share
        Which sweep this is, of how many: ``(3, 10)`` for the progress bar.
    method, memory_limit
        As in :func:`layerlens.run.many_edits.run_cells`.
    seen
        Called with the numbers of finished cells and their last states ``[n, d_model]``, before
        they are pushed: for what an analysis wants to know beside the metric.
    done
        Called with the sweep when some cells are finished, before they are pushed.

    Attributes
    ----------
    values
        [cells] float64, NaN until run.
    base_value
        The metric of the unedited run.
    passes
        What was run so far, in full passes over the text: the naive way takes one a cell, the
        others only the blocks (and positions) that a cell can change.
    told
        What stands beside the progress.
    """

    def __init__(
        self,
        job: Job,
        model: LensModel,
        base: Base,
        metric: Metric,
        show: Show,
        *,
        lead: Place | None = None,
        share: tuple[int, int] = (0, 1),
        method: Method = "auto",
        memory_limit: int = DEFAULT_LIMIT,
        seen: Callable[[Sequence[int], Tensor], None] | None = None,
        done: Callable[[Sweep], None] | None = None,
    ) -> None:
        self.job, self.model, self.base, self.metric = job, model, base, metric
        self.base_value = float(metric(base.final.unsqueeze(0))[0])
        self.values = np.empty(0)
        self.passes = 0.0
        self.method: str = method
        self.told = "cells"
        self._show, self._lead, self._share = show, dict(lead or {}), share
        self._wanted: Method = method
        self._limit = memory_limit
        self._seen, self._tell_done = seen, done
        self._cells: list[Cell] = []
        self._places: list[Place | None] = []
        self._done = 0

    def __len__(self) -> int:
        return len(self._cells)

    def add(self, cell: Cell, place: Place | None) -> int:
        """Plan a cell; ``place`` None keeps it out of the grid (a cell for a check).

        Returns
        -------
        int
            Its number, the index of its value in ``values``.
        """
        self._cells.append(cell)
        self._places.append(place)
        return len(self._cells) - 1

    def fill(self, place: Mapping[str, int | slice], value: float) -> None:
        """Give cells their value without running them."""
        shape = tuple(
            len(range(*where.indices(self._length(axis))))
            for axis, where in self._whole(place).items()
            if isinstance(where, slice)
        )
        shown = self._show(np.array([value]))
        arrays = {name: np.full(shape, array[0]) for name, array in shown.items()}
        self.job.emit({**self._lead, **place}, arrays)

    def _whole(self, place: Mapping[str, int | slice]) -> dict[str, int | slice]:
        """A place with every axis of the grid."""
        assert self.job.parts is not None
        name = next(iter(self._show(np.zeros(1))))
        axes = [axis for axis in self.job.parts.dims[name] if axis not in self._lead]
        return {axis: place.get(axis, slice(None)) for axis in axes}

    def _length(self, axis: str) -> int:
        assert self.job.parts is not None
        return self.job.parts.sizes[axis]

    @property
    def in_waves(self) -> bool:
        """Whether the cells will come one after another, so that their order matters."""
        method: str = self._wanted
        if method == "auto":
            outside = any(cell.layer < 0 for cell in self._cells)
            method = "naive" if outside else sweep_method(self.model)
        if method != "packed":
            return len(self) > FEW_CELLS
        found = waves(self.model, self.base, self._cells, self._limit)
        return next(found, None) is not None and next(found, None) is not None

    def run(self, promise: Sequence[float] | None = None) -> None:
        """Run every planned cell and push the finished ones, wave by wave.

        Parameters
        ----------
        promise
            One number a cell: those with the largest magnitude come first.
        """
        self.values = np.full(len(self), np.nan)
        order = list(range(len(self)))
        if promise is not None:
            order.sort(key=lambda number: -abs(promise[number]))

        def take(indices: Sequence[int], final: Tensor) -> None:
            numbers = [order[index] for index in indices]
            self.values[numbers] = self.metric(final).cpu().numpy()
            if self._seen is not None:
                self._seen(numbers, final)
            if self._tell_done is not None:
                self._tell_done(self)
            self._push(sorted(numbers))

        self.method = run_cells(
            self.model,
            self.base,
            [self._cells[number] for number in order],
            take,
            method=self._wanted,
            memory_limit=self._limit,
            tick=self.job.tick,
            ordered=promise is not None,
        )
        self.passes += self._cost()
        broken = int((~np.isfinite(self.values)).sum())
        if broken:
            self.job.remark(f"{broken} cells gave a metric that is NaN or infinite.")

    def _push(self, numbers: Sequence[int]) -> None:
        for where, block in self._blocks(numbers):
            arrays = self._show(self.values[block])
            self.job.emit({**self._lead, **where}, arrays)
        self._done += len(numbers)
        which, of = self._share
        self.job.progress(which * len(self) + self._done, of * len(self), self.told)

    def _blocks(self, numbers: Sequence[int]) -> Iterator[tuple[dict[str, int | slice], list[int]]]:
        """Cells that are neighbours along the last axis, together."""
        block: list[int] = []
        for number in numbers:
            if self._places[number] is None:
                continue
            if block and not self._follows(block[-1], number):
                yield self._span(block), block
                block = []
            block.append(number)
        if block:
            yield self._span(block), block

    def _follows(self, one: int, other: int) -> bool:
        a, b = self._places[one], self._places[other]
        if a is None or b is None:
            return False
        *axes, last = a
        return b[last] == a[last] + 1 and all(a[axis] == b[axis] for axis in axes)

    def _span(self, block: Sequence[int]) -> dict[str, int | slice]:
        place = self._places[block[0]]
        assert place is not None
        last = list(place)[-1]
        return {**place, last: slice(place[last], place[last] + len(block))}

    def _cost(self) -> float:
        """Full passes that the cells took, by the method that ran them."""
        if self.method == "naive":
            return float(len(self))
        layers, length = self.model.n_layers, self.base.length
        shares = [1 - max(cell.layer, 0) / layers for cell in self._cells]
        if self.method == "restart":
            return sum(shares)
        rows = [1 - cell.position / length for cell in self._cells]
        return sum(share * row for share, row in zip(shares, rows, strict=True))

    def finished(self) -> Iterator[tuple[Place, Cell, float]]:
        """Place, cell and value of every cell of the grid that was run."""
        for place, cell, value in zip(self._places, self._cells, self.values, strict=True):
            if place is not None and np.isfinite(value):
                yield place, cell, float(value)

    @property
    def tolerance(self) -> float:
        """By how much a metric may differ between two ways to compute the same run."""
        finished = self.values[np.isfinite(self.values)]
        scale = max(self._logit_size, float(np.abs(finished).max(initial=0.0)))
        share = logit_tolerance(self.model.dtype)
        limit = max(share, LOGIT_ROUNDING) * scale
        return max(limit, 1.0) if self.metric.name == "rank" else limit

    @cached_property
    def _logit_size(self) -> float:
        logits = self.base.logits
        return 1.0 if logits is None else logit_size(logits)

    def verify(self, count: int, seed: int = 0) -> None:
        """Run some finished cells again the naive way and check that the numbers agree.

        Parameters
        ----------
        count
            How many: the one that changes the metric most, the rest drawn at random.
        seed
            Of the draw.
        """
        finished = [
            number
            for number, place in enumerate(self._places)
            if place is not None and np.isfinite(self.values[number])
        ]
        if not finished or count < 1:
            return
        strongest = max(finished, key=lambda number: abs(self.values[number] - self.base_value))
        rest = [number for number in finished if number != strongest]
        drawn = np.random.default_rng(seed).permutation(rest)[: count - 1]
        chosen = [strongest, *(int(number) for number in drawn)]
        again = self.naive(chosen)
        error = float(np.abs(again - self.values[chosen]).max())
        what = f"{len(chosen)} cells, the strongest among them, against full passes"
        self.job.check("cells equal the naive run", error, self.tolerance, what)

    def naive(self, numbers: Sequence[int]) -> np.ndarray:
        """The metric [n] of some planned cells, in full passes."""
        self.passes += len(numbers)
        return self.naive_values([self._cells[number] for number in numbers])

    def naive_values(self, cells: Sequence[Cell]) -> np.ndarray:
        """The metric [n] of any cells, in full passes that they share; passes are not counted."""
        found = np.full(len(cells), np.nan)

        def take(indices: Sequence[int], final: Tensor) -> None:
            found[list(indices)] = self.metric(final).cpu().numpy()

        run_cells(
            self.model,
            self.base,
            cells,
            take,
            method="naive",
            tick=self.job.tick,
            at_once=len(cells),
        )
        return found
