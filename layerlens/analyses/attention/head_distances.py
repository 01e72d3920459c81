"""How differently heads look at the same texts: Jensen-Shannon divergence of their patterns."""

from __future__ import annotations

from collections.abc import Callable, Iterator

import numpy as np
import torch
from torch import Tensor


class HeadDistances:
    """Sums over queries, text by text.

    A row of a pattern that sums to less than 1 (a learnt sink that is no token, keys beyond
    those that are looked at) has what is missing as one more key.

    Parameters
    ----------
    heads
        How many, of all layers.
    """

    def __init__(self, heads: int) -> None:
        self._sum = torch.zeros(heads, heads, dtype=torch.float64)
        self._queries = 0

    def add(self, patterns: Tensor, tick: Callable[[], None]) -> None:
        """Add one text, ``[head, query, key]`` float32 of all heads."""
        flat = flat_rows(patterns)
        own = entropy(flat)
        for head in range(len(flat) - 1):
            tick()
            both = entropy((flat[head] + flat[head + 1 :]) / 2)
            apart = (both - (own[head] + own[head + 1 :]) / 2).clamp(min=0)
            self._sum[head, head + 1 :] += apart
            self._sum[head + 1 :, head] += apart
        self._queries += patterns.shape[1]

    @property
    def matrix(self) -> np.ndarray:
        """``[head, head]``, mean over queries, nats: 0 to ln 2."""
        return (self._sum / self._queries).numpy()


def flat_rows(patterns: Tensor) -> Tensor:
    """Patterns with what their rows lack of 1, and only keys that some head looks at."""
    rest = (1 - patterns.sum(-1, keepdim=True)).clamp(min=0)
    whole = torch.cat([patterns, rest], -1).flatten(1)
    return whole[:, whole.amax(0) > 0]


def entropy(flat: Tensor) -> Tensor:
    """Sum of the entropies of all rows: float64, one for each head."""
    total: Tensor = torch.special.entr(flat).sum(-1, dtype=torch.float64)
    return total


def shuffled(patterns: Tensor, generator: torch.Generator) -> Tensor:
    """Each head's weights dealt out anew among the keys that each query can see.

    How widely a head looks stays as it is; where to is lost.
    """
    seen = patterns.amax(0) > 0
    dealt = torch.zeros_like(patterns)
    for query, keys in rows(seen):
        order = torch.rand(len(patterns), len(keys), generator=generator).argsort(-1)
        dealt[:, query, keys] = patterns[:, query, keys].gather(-1, order)
    return dealt


def rows(seen: Tensor) -> Iterator[tuple[int, Tensor]]:
    """Each query and the keys that it can see."""
    for query, keys in enumerate(seen):
        yield query, keys.nonzero()[:, 0]
