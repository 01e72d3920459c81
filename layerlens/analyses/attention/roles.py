"""What a head does in one text: shares of its attention that go to keys of one kind."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
import torch
from torch import Tensor

from layerlens.metrics.attention import (
    DuplicateToken,
    Induction,
    OverQueries,
    PreviousToken,
    SinkMass,
    within,
)
from layerlens.metrics.base import ModelShape
from layerlens.metrics.batch import Batch
from layerlens.metrics.layer import Layer
from layerlens.model.token_kinds import DELIMITERS, token_kinds

if TYPE_CHECKING:
    from layerlens.model.lensmodel import LensModel
    from layerlens.model.text import Tokens

NEAR = 3
"""Tokens back that count as near."""


class Local(OverQueries):
    """Share of a head's attention that goes to the token itself and the `NEAR` before it.

    Queries that see no farther do not count.
    """

    name = "local"
    question = "Which heads look at what is near?"
    long_name = "attention to itself and the three before"
    formula = f"mean over queries t > {NEAR} of sum of a_tj over t - {NEAR} <= j <= t"
    units = "1"
    source = "Clark et al. (2019), What Does BERT Look At?, arXiv 1906.04341"

    def measure(self, pattern: Tensor, batch: Batch, rows: list[int]) -> tuple[Tensor, Tensor]:
        """Mass near the diagonal, of the queries that see beyond it."""
        queries, keys = pattern.shape[-2:]
        query = torch.arange(keys - queries, keys)[:, None]
        back = query - torch.arange(keys)
        near = (back >= 0) & (back <= NEAR) & (query > NEAR)
        sums = within(pattern, near)
        return sums, torch.full_like(sums, int((query > NEAR).sum()))


class Delimiter(OverQueries):
    """Share of a head's attention that goes to delimiters: separators and punctuation.

    What these are is said at `token_kinds`; the first token of a text is none, because it draws
    attention whatever it is.

    Parameters
    ----------
    delimiters
        [key] bool.
    """

    name = "delimiter"
    question = "Which heads look at separators and punctuation?"
    long_name = "attention to separators and punctuation"
    formula = "mean over queries of sum of a_tj over delimiters j, which are never the first token"
    units = "1"
    source = "Clark et al. (2019), What Does BERT Look At?, arXiv 1906.04341"

    def __init__(self, shape: ModelShape, delimiters: np.ndarray) -> None:
        super().__init__(shape)
        self._delimiters = torch.from_numpy(delimiters)

    def measure(self, pattern: Tensor, batch: Batch, rows: list[int]) -> tuple[Tensor, Tensor]:
        """Mass on the delimiters."""
        mass = within(pattern, self._delimiters.expand(pattern.shape[-2:]))
        return mass, torch.full_like(mass, pattern.shape[-2])


ROLES: dict[str, type[OverQueries]] = {
    "previous_token": PreviousToken,
    "induction": Induction,
    "duplicate_token": DuplicateToken,
    "sink_mass": SinkMass,
    "local": Local,
    "delimiter": Delimiter,
}
"""Name of a number to the metric that it is."""


class Roles:
    """The shares of one text, layer by layer.

    Queries that have no key of the kind (no earlier occurrence of the token, say) do not count
    for `induction` and `duplicate_token`: a share is then of what could be found. The first
    query, which has nothing to choose from, never counts.

    Parameters
    ----------
    tokens
        One text without padding.
    """

    def __init__(self, model: LensModel, tokens: Tokens) -> None:
        shape = ModelShape.of(model)
        self._model = model
        self._batch = Batch(tokens, [0], skip_first=1)
        self._metrics: list[OverQueries] = [
            PreviousToken(shape),
            Induction(shape, only_possible=True),
            DuplicateToken(shape, only_possible=True),
            SinkMass(shape),
            Local(shape),
            Delimiter(shape, delimiters(model, tokens)),
        ]

    def of(self, number: int, pattern: Tensor) -> dict[str, np.ndarray]:
        """Return the shares of a layer's heads, [head] float64 each; NaN where nothing counts.

        Parameters
        ----------
        pattern
            [1, head, query, key].
        """
        parts = frozenset({"pattern"})
        layer = Layer(self._model, number, self._batch, {"pattern": pattern}, parts)
        found = {}
        for metric in self._metrics:
            metric.update(layer)
            found[metric.name] = metric.value(False)[metric.name][number]
        return found


def special(model: LensModel, tokens: Tokens) -> np.ndarray:
    """Which tokens of a text are no words, [position] bool: the first one, and special ones."""
    found = np.array([i in model.vocabulary.special for i in tokens.ids[0].tolist()])
    found[0] = True
    return found


def delimiters(model: LensModel, tokens: Tokens) -> np.ndarray:
    """Which tokens of a text are separators or punctuation, [position] bool."""
    kinds = token_kinds(tokens.ids[0].tolist(), tokens.strings[0], model.vocabulary.special)
    return np.array([kind in DELIMITERS for kind in kinds])
