"""How strongly a feature is on, over any number of tokens: counts, and examples of each strength.

Bins are even from 0 on, and twice as wide whenever an activation lies beyond the last of them: two
neighbours become one, so no count is lost and nothing has to be known beforehand. Each bin keeps
the examples with the smallest of random keys, which stays a fair draw when bins become one.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, TypeVar

import numpy as np
import torch
from torch import Tensor

if TYPE_CHECKING:
    from layerlens.corpus.rows import Row

T = TypeVar("T")
BINS = 40
"""Bins; between half of them and all are in use in the end."""


@dataclass(frozen=True, eq=False)
class Example:
    """A token that a feature is on for.

    Attributes
    ----------
    activation
        How strongly.
    row, layer, position
        Where: the row of tokens, the number of the layer among those that are read, the token.
    factor
        What the decoder's row is multiplied by there, beside the activation.
    around
        ``[position]`` float32: the feature at every token of the row there, NaN where none counts.
    """

    activation: float
    row: Row
    layer: int
    position: int
    factor: float
    around: Tensor

    def window(self, around: int) -> tuple[list[int], list[float]]:
        """Tokens and activations up to so many tokens away; -1 and NaN beyond the row."""
        ids = window(self.row.ids, self.position, around)
        return ids, window(self.around.tolist(), self.position, around, float("nan"))


def window(values: Sequence[T], at: int, around: int, missing: Any = -1) -> list[T]:
    """The values up to so many places away from one, filled up beyond either end."""
    return [
        values[place] if 0 <= place < len(values) else missing
        for place in range(at - around, at + around + 1)
    ]


@dataclass(frozen=True, eq=False)
class Band:
    """Activations above `low` up to `high`, how many there are, and some examples of them."""

    low: float
    high: float
    count: int
    examples: list[Example]


class Spread:
    """Counts of activations by strength, of the texts and of the texts shuffled.

    Parameters
    ----------
    each
        Examples that are kept of each bin.
    seed
        Of the keys that they are drawn by.

    Attributes
    ----------
    counts, shuffled
        ``[BINS]`` int64.
    width
        Of a bin; 0 before the feature was ever on.
    largest
        The largest activation in the texts themselves.
    """

    def __init__(self, each: int, seed: int) -> None:
        self.counts = np.zeros(BINS, dtype=np.int64)
        self.shuffled = np.zeros(BINS, dtype=np.int64)
        self.width = self.largest = 0.0
        self._each = each
        self._keys = np.random.default_rng(seed)
        self._kept: list[list[tuple[float, Example]]] = [[] for _ in range(BINS)]

    def add(self, values: Tensor, example: Callable[[int], Example]) -> None:
        """Take in activations ``[n]``, all above 0; `example` makes one of any of them."""
        if not len(values):
            return
        self.largest = max(self.largest, float(values.max()))
        bins = self._placed(values)
        self.counts += np.bincount(bins, minlength=BINS)
        keys = self._keys.random(len(bins))
        order = np.argsort(keys)
        for place in np.unique(bins):
            for index in order[bins[order] == place][: self._each].tolist():
                self._kept[place].append((float(keys[index]), example(index)))
            self._kept[place] = self._fewest(self._kept[place])

    def add_shuffled(self, values: Tensor) -> None:
        """Take in activations ``[n]``, all above 0, of texts that were shuffled."""
        if len(values):
            self.shuffled += np.bincount(self._placed(values), minlength=BINS)

    def edges(self) -> np.ndarray:
        """``[BINS]`` float32: where each bin ends."""
        found: np.ndarray = (np.arange(1, BINS + 1) * self.width).astype(np.float32)
        return found

    def bands(self, number: int) -> Iterator[Band]:
        """Cut what is in use into bands of about the same width, the strongest first.

        They end where bins do, so that each has an exact count.
        """
        used = int(np.ceil(self.largest / self.width - 1e-6)) if self.width else 0
        cuts = np.linspace(0, used, number + 1).round().astype(int)
        for low, high in zip(cuts[-2::-1], cuts[:0:-1], strict=True):
            kept = [pair for place in self._kept[low:high] for pair in place]
            examples = [example for _, example in self._fewest(kept)]
            examples.sort(key=lambda one: (-one.activation, one.row.number, one.position))
            ends = low * self.width, min(high * self.width, self.largest)
            yield Band(*ends, int(self.counts[low:high].sum()), examples)

    def _placed(self, values: Tensor) -> np.ndarray:
        """``[n]``: the bin of each activation, once bins reach as far."""
        largest = float(values.max())
        if not self.width:
            self.width = largest / BINS
        while largest > BINS * self.width * (1 + 1e-6):
            self._double()
        found = torch.ceil(values.double() / self.width).long() - 1
        return found.clamp(0, BINS - 1).cpu().numpy()

    def _double(self) -> None:
        self.width *= 2
        for name in ("counts", "shuffled"):
            joined = np.zeros(BINS, dtype=np.int64)
            joined[: BINS // 2] = getattr(self, name).reshape(-1, 2).sum(1)
            setattr(self, name, joined)
        pairs = zip(self._kept[::2], self._kept[1::2], strict=True)
        joined_kept = [self._fewest([*one, *other]) for one, other in pairs]
        self._kept = [*joined_kept, *([] for _ in range(BINS // 2))]

    def _fewest(self, kept: list[tuple[float, Example]]) -> list[tuple[float, Example]]:
        return sorted(kept, key=lambda pair: pair[0])[: self._each]
