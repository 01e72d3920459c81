"""Integrated gradients of one text, by the state at each depth in turn."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, NamedTuple

import numpy as np
import torch
from torch import Tensor

from layerlens.analyses.relevance.explained import Explained
from layerlens.analyses.sweeps.straight_way import FEWEST, INSIDE, TIMES, WITHIN, places
from layerlens.run.block_rows import RowCalls
from layerlens.run.replay import OnState, capture_calls

if TYPE_CHECKING:
    from layerlens.model.lensmodel import LensModel
    from layerlens.model.text import Tokens


class Along(NamedTuple):
    """What the way to one depth gave.

    Parameters
    ----------
    relevance
        ``[position]`` float64.
    start
        What is explained, where the way begins.
    steps
        Places of the way at which the derivative was taken.
    """

    relevance: np.ndarray
    start: float
    steps: int


class Integrated:
    """One text, in as many rows as steps are taken at once.

    Parameters
    ----------
    baseline
        A text of as many tokens, at whose states the ways begin; None for the mean of the text's
        own at the depth. The first token then keeps its state: models lean on it whatever it is.
    place
        Position that is answered.
    explained
        What is explained.
    steps
        Derivatives that are taken at most: `FEWEST`, then `TIMES` as many, until they add up.
    memory_limit
        Bytes that the rows may take.

    Attributes
    ----------
    states
        ``[position, d_model]`` before each block and after the last.
    blocks
        Rows that went through a block; a way back counts as two.
    """

    def __init__(
        self,
        model: LensModel,
        text: Tokens,
        baseline: Tokens | None,
        place: int,
        explained: Explained,
        steps: int,
        memory_limit: int,
        tick: Callable[[], None],
    ) -> None:
        self.model, self.tick, self.steps = model, tick, steps
        self.place, self.explained = place, explained
        row = text.ids.shape[1] * model.d_model * model.dtype.itemsize * model.n_layers * INSIDE
        self.rows = max(1, min(steps, FEWEST, memory_limit // row))
        self.states: list[Tensor] = []
        self.calls = RowCalls(model, text, self._into(self.states), for_autograd=True)
        self._others: list[Tensor] = []
        if baseline is not None:
            capture_calls(model, baseline, self._into(self._others), logits=None, for_autograd=True)
        self.blocks = model.n_layers * (3 + (baseline is not None))

    @staticmethod
    def _into(states: list[Tensor]) -> OnState:
        return lambda _, state: states.append(state[0].clone())

    def at(self, layer: int, whole: float) -> Along:
        """Relevance of the tokens' states before a block, or after the last.

        Parameters
        ----------
        whole
            What is explained, where the way ends.
        """
        there = self._begin(layer)
        with torch.no_grad():
            start = float(self._run(layer, there[None])[0])
        count = min(FEWEST, self.steps)
        while True:
            found = self._way(layer, there, count)
            enough = WITHIN * max(abs(whole - start), abs(whole))
            if count == self.steps or abs(whole - start - found.sum()) <= enough:
                return Along(found, start, count)
            count = min(TIMES * count, self.steps)

    def _begin(self, layer: int) -> Tensor:
        """Where the way begins, ``[position, d_model]``."""
        if self._others:
            return self._others[layer]
        there = self.states[layer].clone()
        there[1:] = there[1:].mean(0)
        return there

    def _way(self, layer: int, there: Tensor, steps: int) -> np.ndarray:
        alphas, weights = places(steps)
        way = self.states[layer] - there
        total = torch.zeros(len(way), dtype=torch.float64)
        for start in range(0, steps, self.rows):
            here = alphas[start : start + self.rows].to(way)
            slopes = self._slopes(layer, there + here[:, None, None] * way)
            found = torch.einsum("rpd,pd->rp", slopes.double().cpu(), way.double().cpu())
            total += (weights[start : start + self.rows, None] * found).sum(0)
        return total.numpy()

    def _slopes(self, layer: int, states: Tensor) -> Tensor:
        """The derivative by the states of each row."""
        leaf = states.requires_grad_()
        (slopes,) = torch.autograd.grad(self._run(layer, leaf).sum(), leaf)
        self.blocks += 2 * len(states) * (self.model.n_layers - layer)
        return slopes

    def _run(self, layer: int, state: Tensor) -> Tensor:
        """What is explained, of states before a block, ``[row]``."""
        for later in range(layer, self.model.n_layers):
            self.tick()
            state = self.calls(later, state)
        self.blocks += len(state) * (self.model.n_layers - layer)
        return self.explained(state[:, self.place])
