"""One text's answer with its concepts turned down or taken out: true runs, many at once."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import numpy as np
import torch
from torch import Tensor

from layerlens.analyses.answers.answer_metric import Metric
from layerlens.analyses.features.activations import Places
from layerlens.analyses.features.concepts.factors import Factors
from layerlens.analyses.features.concepts.sobol import designs, totals, with_one_other
from layerlens.model.sites import Site
from layerlens.model.text import Tokens
from layerlens.run.base import Base, record_base
from layerlens.run.cell import Cell
from layerlens.run.changes import Change
from layerlens.run.many_edits import run_cells

MakeMetric = Callable[[Base], Metric]


class Answered:
    """The answer of one text as a function of how much of each concept there is.

    Parameters
    ----------
    places
        Which tokens count; the others keep the model's own activations.
    site
        Where the concepts are.
    tokens
        One text.
    metric
        What is measured, from the run as it is.
    keep_error
        Whether what the concepts leave out stays.
    memory_limit
        Bytes for the runs that go together.

    Attributes
    ----------
    coefficients
        ``[position, concept]``, of the tokens that count.
    value
        What the model answers as it is.
    """

    def __init__(
        self,
        places: Places,
        site: Site,
        factors: Factors,
        tokens: Tokens,
        metric: MakeMetric,
        *,
        keep_error: bool,
        memory_limit: int,
        tick: Callable[[], None],
    ) -> None:
        self._model, self._site, self._factors = places.model, site, factors
        self._limit, self._tick = memory_limit, tick
        kept = places.kept(tokens)[0]
        self.positions = tuple(kept.nonzero().flatten().tolist())
        self._base = record_base(self._model, tokens, [site])
        self._x = self._base.trace[site][0].float().cpu().numpy()[kept.numpy()].astype(np.float64)
        self.coefficients = factors.coefficients(factors.signs.open(self._x), tick)
        self._error = self._x - factors.written(self.coefficients)
        self._kept = float(keep_error)
        self._metric = metric(self._base)
        self.value = float(self._metric(self._base.final[None])[0])

    def error_put_back(self) -> float:
        """What the answer is with all concepts and their error, written over the activations."""
        whole = self._error + self._factors.written(self.coefficients)
        return float(self._run(1, lambda _: whole)[0])

    def masked(self, masks: np.ndarray, method: str = "auto") -> np.ndarray:
        """The answer ``[n]`` with coefficients times masks ``[n, concept]``, one for all tokens.

        Runs that could not differ are one run.
        """
        # A concept that is in no token of the text does nothing, whatever it is multiplied by.
        here = (self.coefficients > 0).any(0)
        different, which = np.unique(np.where(here, masks, 1.0), axis=0, return_inverse=True)
        found = self._run(len(different), lambda i: self._with(different[i]), method)
        given: np.ndarray = found[which.reshape(-1)]
        return given

    def _with(self, mask: np.ndarray | float) -> np.ndarray:
        """The activations with coefficients times a mask."""
        written = self._factors.written(self.coefficients * mask)
        found: np.ndarray = written + self._kept * self._error
        return found

    def importance(self, number: int, seed: int) -> np.ndarray:
        """Total Sobol index of each concept: ``[concept]``."""
        a, b = designs(number, self.coefficients.shape[1], seed)
        found = self.masked(np.concatenate([a, *with_one_other(a, b)]))
        return totals(found[:number], found[number:].reshape(-1, number))

    def moves_without(self, directions: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """How far the answer moves without each concept, and without as much along directions.

        Parameters
        ----------
        directions
            ``[concept, width]``, of length 1.

        Returns
        -------
        tuple of ndarray
            ``[concept]`` each, from what it is with all concepts.
        """
        count = self.coefficients.shape[1]
        own, *without = self.masked(np.concatenate([np.ones((1, count)), 1 - np.eye(count)]))
        there = self._with(1.0)
        sizes = np.linalg.norm(self._factors.directions, axis=1) * self.coefficients
        beside = self._run(count, lambda i: there - np.outer(sizes[:, i], directions[i]))
        return np.abs(np.array(without) - own), np.abs(beside - own)

    def _run(
        self, count: int, state: Callable[[int], np.ndarray], method: str = "auto"
    ) -> np.ndarray:
        """The answer with the tokens that count set to one state after the other."""
        found = torch.zeros(count, dtype=torch.float64)
        size = max(1, self._limit // 4 // (4 * max(1, self._x.size)))
        for begin in range(0, count, size):
            cells = [Cell((self._set(state(i)),)) for i in range(begin, min(begin + size, count))]

            def take(numbers: Sequence[int], final: Tensor, begin: int = begin) -> None:
                found[[begin + number for number in numbers]] = self._metric(final).cpu()

            run_cells(
                self._model, self._base, cells, take, method=method,  # type: ignore[arg-type]
                memory_limit=self._limit, tick=self._tick,
            )  # fmt: skip
        values: np.ndarray = found.numpy()
        return values

    def _set(self, state: np.ndarray) -> Change:
        return Change(self._site, "set", torch.from_numpy(state).float(), self.positions)
