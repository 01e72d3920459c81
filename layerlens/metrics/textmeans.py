"""Means over texts of numbers that take a whole text's states at once."""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Sequence
from functools import cached_property
from typing import Any
from weakref import WeakKeyDictionary

import torch
from torch import Tensor

from layerlens.metrics.base import Arrays, LayerMetric, ModelShape
from layerlens.metrics.batch import GROUPS, accumulate
from layerlens.metrics.layer import Layer
from layerlens.metrics.means import bootstrap, ratio
from layerlens.metrics.one_thread import one_thread

ROUNDING = 1e-6
"""What is left of a row by centring and is smaller than this share of it is float32 rounding."""


def centred(rows: Tensor) -> Tensor:
    """Rows less their mean, with what is only rounding put to zero: [n, d]."""
    moved = rows - rows.mean(0)
    size = rows.norm(dim=-1, keepdim=True)
    return torch.where(moved.norm(dim=-1, keepdim=True) > ROUNDING * size, moved, 0.0)


def unit(rows: Tensor) -> Tensor:
    """Rows of length 1; zero rows stay zero."""
    size = rows.norm(dim=-1, keepdim=True)
    return rows / torch.where(size > 0, size, 1.0)


def gram(rows: Tensor) -> Tensor:
    """The smaller of ``Z Z^T`` and ``Z^T Z``, which have the same eigenvalues but for zeros."""
    return rows @ rows.T if len(rows) <= rows.shape[1] else rows.T @ rows


def spectrum(rows: Tensor) -> Tensor:
    """Eigenvalues of ``Z Z^T`` as shares of their sum, float64, ascending, without zeros.

    Those below 1e-12 of the largest count as zeros. Empty where all rows are zero.
    """
    with one_thread():
        found = torch.linalg.eigvalsh(gram(rows))
    kept: Tensor = found[found > 1e-12 * found[-1].clamp(min=torch.finfo(found.dtype).tiny)]
    return kept / kept.sum()


class TextState:
    """The states of the counted tokens of one text at one depth.

    Attributes
    ----------
    rows
        [tokens, d_model] float64 on the CPU.
    """

    def __init__(self, rows: Tensor) -> None:
        self.rows = rows.to("cpu", torch.float64)

    @cached_property
    def normalized(self) -> Tensor:
        """Less the mean over tokens, then each of length 1."""
        return unit(centred(self.rows))

    @cached_property
    def unit(self) -> Tensor:
        """Each of length 1."""
        return unit(self.rows)

    @cached_property
    def normalized_spectrum(self) -> Tensor:
        """Of the normalized rows."""
        return spectrum(self.normalized)

    @cached_property
    def raw_spectrum(self) -> Tensor:
        """Of the rows as they are."""
        return spectrum(self.rows)


_SEEN: WeakKeyDictionary[Layer, dict[str, list[tuple[int, TextState]]]] = WeakKeyDictionary()


def texts_of(layer: Layer, part: str) -> list[tuple[int, TextState]]:
    """Row number and states of each text that has tokens to count, shared by all metrics."""
    parts = _SEEN.setdefault(layer, {})
    if part not in parts:
        found = layer.texts(part, every=False)
        parts[part] = [(row, TextState(values)) for row, values in found]
    return parts[part]


class TextMeans(LayerMetric):
    """Means over texts of some numbers of each text's states, one for each of ``outputs``.

    Every text weighs the same, whatever its length. Intervals come from resampling texts.
    """

    axes = ("point",)
    parts = ("pre", "post")

    def __init__(self, shape: ModelShape, **options: Any) -> None:
        super().__init__(shape, **options)
        cells = (len(self.outputs), shape.sizes["point"])
        self.zeros("sum", GROUPS, *cells)
        self.zeros("count", GROUPS, *cells)

    @abstractmethod
    def measure(self, text: TextState) -> Sequence[float]:
        """One number for each output; NaN does not count."""

    def update(self, layer: Layer) -> None:
        """Add the states after a layer, and before the first one the states there too."""
        if layer.number == 0:
            self._add(layer, "pre", 0)
        self._add(layer, "post", layer.number + 1)

    def _add(self, layer: Layer, part: str, point: int) -> None:
        found = torch.full((len(layer.batch), len(self.outputs)), torch.nan, dtype=torch.float64)
        for row, text in texts_of(layer, part):
            found[row] = torch.tensor(self.measure(text), dtype=torch.float64)
        known = found.isfinite()
        cell = (slice(None), point)
        groups = layer.batch.groups
        accumulate(self.arrays["sum"], groups, cell, found.where(known, 0.0))
        accumulate(self.arrays["count"], groups, cell, known.double())

    def value(self, intervals: bool = True) -> Arrays:
        """The means, and their intervals."""
        sums = {key: self.arrays[key] for key in ("sum", "count")}
        means = ratio({key: array.sum(0) for key, array in sums.items()})
        found = dict(zip(self.outputs, means, strict=True))
        if intervals:
            low, high = bootstrap(ratio, sums)
            for number, name in enumerate(self.outputs):
                found[f"{name}_low"], found[f"{name}_high"] = low[number], high[number]
        return found
