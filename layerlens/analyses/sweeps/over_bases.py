"""The same cells from several bases, averaged: every base makes the picture sharper."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from layerlens.analyses.sweeps.cell_sweep import Sweep

if TYPE_CHECKING:
    from layerlens.analyses.answers.answer_metric import Metric
    from layerlens.analyses.contract.contract import Job
    from layerlens.model.lensmodel import LensModel
    from layerlens.run.base import Base

Arrays = Callable[[np.ndarray, np.ndarray], dict[str, np.ndarray]]
"""From mean effects [n] and their standard errors [n] to the arrays of the result, [n] each."""


class Average:
    """Means and standard errors of the effects of some cells, as far as they have come.

    An effect is the metric of a cell less that of the base it was run from.

    Parameters
    ----------
    arrays
        Turns them into the arrays of the result.
    """

    def __init__(self, arrays: Arrays) -> None:
        self.arrays = arrays
        self._effects: list[np.ndarray] = []

    def start(self, cells: int) -> np.ndarray:
        """Room [cells] for the effects of one more base, NaN until they are known."""
        self._effects.append(np.full(cells, np.nan))
        return self._effects[-1]

    def mean(self) -> np.ndarray:
        """Mean effect of each cell; NaN where nothing came."""
        values = np.array(self._effects)
        known = np.isfinite(values)
        with np.errstate(invalid="ignore"):
            found: np.ndarray = np.where(known, values, 0).sum(0) / known.sum(0)
        return found

    def error(self) -> np.ndarray:
        """Standard error of each mean; NaN below two bases."""
        values = np.array(self._effects)
        known = np.isfinite(values)
        n = known.sum(0)
        with np.errstate(invalid="ignore", divide="ignore"):
            squares = np.where(known, values - self.mean(), 0) ** 2
            found: np.ndarray = np.sqrt(squares.sum(0) / (n - 1) / n)
        return np.where(n > 1, found, np.nan)

    def shown(self, numbers: Sequence[int]) -> dict[str, np.ndarray]:
        """The arrays of some cells as they stand."""
        index = list(numbers)
        return self.arrays(self.mean()[index], self.error()[index])


class Sampled(Sweep):
    """One of several sweeps over the same cells; what it pushes is the mean effect so far.

    Parameters
    ----------
    average
        Shared by all of them.
    **how
        As in :class:`Sweep`.
    """

    def __init__(
        self,
        job: Job,
        model: LensModel,
        base: Base,
        metric: Metric,
        average: Average,
        **how: Any,
    ) -> None:
        def alone(values: np.ndarray) -> dict[str, np.ndarray]:
            return average.arrays(values, np.full(len(values), np.nan))

        super().__init__(job, model, base, metric, alone, **how)
        self._average = average
        self._effects = np.empty(0)

    def run(self, promise: Sequence[float] | None = None) -> None:
        """Run every planned cell; see :meth:`Sweep.run`."""
        self._effects = self._average.start(len(self))
        super().run(promise)

    def _push(self, numbers: Sequence[int]) -> None:
        index = list(numbers)
        self._effects[index] = self.values[index] - self.base_value
        for where, block in self._blocks(numbers):
            self.job.emit({**self._lead, **where}, self._average.shown(block))
        self._done += len(numbers)
        which, of = self._share
        self.job.progress(which * len(self) + self._done, of * len(self), self.told)
