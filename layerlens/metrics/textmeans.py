"""Means over texts of numbers that take a whole text's states at once."""

from __future__ import annotations

from abc import abstractmethod
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
    """Rows [..., n, d] less their mean, with what is only rounding put to zero."""
    return TextStates(rows).centred


def unit(rows: Tensor) -> Tensor:
    """Rows of length 1; zero rows stay zero."""
    size = rows.norm(dim=-1, keepdim=True)
    return rows / torch.where(size > 0, size, 1.0)


def gram(rows: Tensor) -> Tensor:
    """The smaller of ``Z Z^T`` and ``Z^T Z``, which have the same eigenvalues but for zeros."""
    return rows @ rows.mT if rows.shape[-2] <= rows.shape[-1] else rows.mT @ rows


def shares(kernel: Tensor) -> Tensor:
    """Eigenvalues of Gram matrices [..., n, n] as shares of their sum, ascending: [..., n].

    Those below 1e-12 of the largest count as zeros. All are zero where the matrix is.
    """
    with one_thread():
        found: Tensor = torch.linalg.eigvalsh(kernel)
    noise = 1e-12 * found[..., -1:].clamp(min=torch.finfo(found.dtype).tiny)
    kept = found.where(found > noise, 0.0)
    total = kept.sum(-1, keepdim=True)
    parts: Tensor = kept / total.where(total > 0, 1.0)
    return parts


class TextStates:
    """The states of the counted tokens of texts of one length at one depth.

    What several metrics need is computed once for all of them and for all texts together.

    Attributes
    ----------
    rows
        [text, tokens, d_model] float64 on the CPU.
    """

    def __init__(self, rows: Tensor) -> None:
        self.rows = rows

    @cached_property
    def size(self) -> Tensor:
        """Length of each state: [text, tokens]."""
        found: Tensor = self.rows.norm(dim=-1)
        return found

    @cached_property
    def direction_sum(self) -> Tensor:
        """Sum of the states of each text, each with length 1: [text, d_model]."""
        weight = torch.where(self.size > 0, 1 / self.size, 0.0)
        return (weight.unsqueeze(-2) @ self.rows).squeeze(-2)

    @cached_property
    def moved(self) -> Tensor:
        """States less the mean over the tokens of their text."""
        return self.rows - self.rows.mean(-2, keepdim=True)

    @cached_property
    def moved_size(self) -> Tensor:
        """Length of each of these: [text, tokens]."""
        found: Tensor = self.moved.norm(dim=-1)
        return found

    @cached_property
    def real(self) -> Tensor:
        """Whether what is left of a state by centring is more than rounding: [text, tokens]."""
        return self.moved_size > ROUNDING * self.size

    @cached_property
    def centred(self) -> Tensor:
        """States less their mean, what is only rounding put to zero."""
        if self.real.all():
            return self.moved
        return self.moved.where(self.real.unsqueeze(-1), 0.0)

    @cached_property
    def centred_size(self) -> Tensor:
        """Length of each of these: [text, tokens]."""
        return self.moved_size.where(self.real, 0.0)

    @cached_property
    def centred_gram(self) -> Tensor:
        """The smaller Gram matrix of each text's centred states."""
        return gram(self.centred)

    @cached_property
    def normalized_shares(self) -> Tensor:
        """Spectrum of the states less their mean, each of length 1: [text, smaller side]."""
        size = self.centred_size.where(self.real, 1.0)
        if self.rows.shape[-2] <= self.rows.shape[-1]:  # tokens by tokens: rows and columns scale
            return shares(self.centred_gram / (size.unsqueeze(-1) * size.unsqueeze(-2)))
        return shares(gram(self.centred / size.unsqueeze(-1)))

    @cached_property
    def raw_shares(self) -> Tensor:
        """Spectrum of the states as they are: [text, smaller side]."""
        return shares(gram(self.rows))


_SEEN: WeakKeyDictionary[Layer, dict[str, list[tuple[list[int], TextStates]]]] = WeakKeyDictionary()


def texts_of(layer: Layer, part: str) -> list[tuple[list[int], TextStates]]:
    """Row numbers and states of the texts with so many tokens to count, shared by all metrics."""
    parts = _SEEN.setdefault(layer, {})
    if part not in parts:
        parts[part] = [
            (rows, TextStates(values.to("cpu", torch.float64)))
            for rows, values in layer.alike(part)
        ]
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
    def measure(self, texts: TextStates) -> tuple[Tensor, ...]:
        """One number for each text, [text] float64, for each output; NaN does not count."""

    def update(self, layer: Layer) -> None:
        """Add the states after a layer, and before the first one the states there too."""
        if layer.number == 0:
            self._add(layer, "pre", 0)
        self._add(layer, "post", layer.number + 1)

    def _add(self, layer: Layer, part: str, point: int) -> None:
        found = torch.full((len(layer.batch), len(self.outputs)), torch.nan, dtype=torch.float64)
        for rows, texts in texts_of(layer, part):
            found[rows] = torch.stack(self.measure(texts), -1)
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
