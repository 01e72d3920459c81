"""Means over tokens and texts, with the interval that the choice of texts leaves open."""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Callable
from typing import Any

import numpy as np
import torch
from torch import Tensor

from layerlens.metrics.base import Arrays, LayerMetric, ModelShape
from layerlens.metrics.batch import GROUPS, Batch, accumulate
from layerlens.metrics.bootstrap import DRAWS, ends, resamples
from layerlens.metrics.layer import Layer

MOST_NUMBERS = 4_000_000
"""Numbers of resampled totals held at once."""

Statistic = Callable[[Arrays], np.ndarray]
"""From totals ``[..., cells]`` by name to what is reported of them, ``[..., cells]``."""


def bootstrap(statistic: Statistic, arrays: Arrays, seed: int = 0) -> tuple[np.ndarray, np.ndarray]:
    """Percentile bootstrap interval (Efron 1979) of a statistic of sums over texts.

    Parameters
    ----------
    statistic
        What is computed from the sums over all texts.
    arrays
        Name -> sums over the texts of each group, ``[GROUPS, ...]``; ``count`` among them says
        which groups have any.
    seed
        Of the resamples, so that the same numbers give the same interval.

    Returns
    -------
    low, high
        Ends of the 95 % interval; NaN where fewer than two groups have anything.
    """
    counts = arrays["count"].reshape(GROUPS, -1)
    used = counts.any(1)
    n = int(used.sum())
    shape = arrays["count"].shape[1:]
    low, high = np.full((2, counts.shape[1]), np.nan)
    if n < 2:
        return low.reshape(shape), high.reshape(shape)
    draws = resamples(n, seed)
    flat = {name: array.reshape(GROUPS, -1)[used] for name, array in arrays.items()}
    step = max(1, MOST_NUMBERS // (DRAWS * len(flat)))
    for start in range(0, counts.shape[1], step):
        cells = slice(start, start + step)
        with np.errstate(divide="ignore", invalid="ignore"):
            found = statistic({name: draws @ array[:, cells] for name, array in flat.items()})
        several = (counts[used, cells] > 0).sum(0) > 1
        low[cells], high[cells] = ends(found, several)
    return low.reshape(shape), high.reshape(shape)


def ratio(totals: Arrays) -> np.ndarray:
    """Mean: the sum over the count."""
    with np.errstate(divide="ignore", invalid="ignore"):
        return np.asarray(totals["sum"] / totals["count"])


class Mean(LayerMetric):
    """A metric that is the mean of one number for each token or text, cell by cell.

    The cells are those of its axes. Sums are kept in float64 for each group of texts, so that
    the interval can be found by resampling texts, never tokens.
    """

    def __init__(self, shape: ModelShape, **options: Any) -> None:
        super().__init__(shape, **options)
        sizes = {**shape.sizes, **self.sizes()}
        cells = tuple(sizes[axis] for axis in self.axes)
        self.zeros("sum", GROUPS, *cells)
        self.zeros("count", GROUPS, *cells)
        self.zeros("left_out", 1)

    @property
    def left_out(self) -> int:
        """How many numbers were not counted because they are not defined (NaN)."""
        return int(self.arrays["left_out"][0])

    def add(self, cell: tuple[int | slice, ...], values: Tensor, batch: Batch) -> None:
        """Count one number for each kept token.

        Parameters
        ----------
        cell
            Index into the cells, an int for the layer first: ``(layer,)``, or ``(layer, slice(0,
            heads))``.
        values
            [n] or [n, ...], aligned with ``batch.kept``; NaN does not count.
        """
        values = values.detach().to("cpu", torch.float64)
        known = values.isfinite()
        if known.all():
            counts = batch.kept.counts.view(-1, *[1] * (values.dim() - 1))
            counts = counts.expand(-1, *values.shape[1:])
        else:
            counts = batch.kept.by_text(known.double())
            self.arrays["left_out"] += float((~known).sum())
            values = values.where(known, 0.0)
        self.add_texts(cell, batch.kept.by_text(values), counts, batch)

    def add_texts(
        self,
        cell: tuple[int | slice, ...],
        sums: Tensor,
        counts: Tensor,
        batch: Batch,
    ) -> None:
        """Count sums over the tokens of each text, ``[batch, ...]``, and how many they are of.

        For a mean over texts and not tokens, give each text's number with a count of 1 (0 where
        it has none).
        """
        accumulate(self.arrays["sum"], batch.groups, cell, sums)
        accumulate(self.arrays["count"], batch.groups, cell, counts)

    def value(self, intervals: bool = True) -> Arrays:
        """The means, and their intervals."""
        sums = {key: self.arrays[key] for key in ("sum", "count")}
        found = {self.name: ratio({key: array.sum(0) for key, array in sums.items()})}
        if intervals:
            low, high = bootstrap(ratio, sums)
            found[f"{self.name}_low"], found[f"{self.name}_high"] = low, high
        return found


class TokenMean(Mean):
    """The mean over tokens of one number for each token (and head) of a layer."""

    axes = ("layer",)

    @abstractmethod
    def measure(self, layer: Layer) -> Tensor:
        """One number for each kept token: [n], or [n, heads of the layer]."""

    def update(self, layer: Layer) -> None:
        """Add the numbers of one layer."""
        if not layer.has(*self.parts):
            return
        values = self.measure(layer)
        heads = () if values.dim() == 1 else (slice(0, values.shape[1]),)
        self.add((layer.number, *heads), values, layer.batch)


class StateMean(Mean):
    """The mean over tokens of one number for each state before, between and after the blocks."""

    axes = ("point",)
    parts = ("pre", "post")

    @abstractmethod
    def measure(self, layer: Layer, part: str) -> Tensor:
        """One number for each kept token's state: [n]. ``part`` is ``pre`` or ``post``."""

    def update(self, layer: Layer) -> None:
        """Add the state after a layer, and before the first one the state there too."""
        if layer.number == 0:
            self.add((0,), self.measure(layer, "pre"), layer.batch)
        self.add((layer.number + 1,), self.measure(layer, "post"), layer.batch)
