"""Metrics of attention that give several means, and the control that they share."""

from __future__ import annotations

from abc import abstractmethod
from typing import Any, ClassVar

import numpy as np
import torch
from torch import Tensor

from layerlens.metrics.attention import mean_of
from layerlens.metrics.base import Arrays, LayerMetric, ModelShape
from layerlens.metrics.batch import GROUPS, Batch, accumulate
from layerlens.metrics.layer import Layer

HEADS = ("layer", "head")
LAYERS = ("layer",)
CONTROL = "with the same for every key that can be seen"
"""What a control is, in words that go on after the name of the number."""

Measured = dict[str, tuple[Tensor, Tensor | int]]
"""Name of an output to each text's sum over what was counted, [text, head] or [text], and how much
that was, [text] or for all of them."""


class SeveralMeans(LayerMetric):
    """Several means at once of each head of a layer, over queries or over texts.

    Outputs over ``layer`` alone are controls: what attention that spreads evenly over the keys
    it can see would give. Keys that can be seen are those that any head of the layer looks at,
    so that causal masks, windows and bidirectional attention need not be told apart.
    """

    axes = HEADS
    parts = ("pattern",)
    cost = "1 pass for all metrics, half as long again for the patterns"
    outputs: ClassVar[Any]

    def __init__(self, shape: ModelShape, **options: Any) -> None:
        super().__init__(shape, **options)
        for name, output in self.outputs.items():
            cells = tuple(shape.sizes[axis] for axis in output.axes)
            self.zeros(f"{name}.sum", GROUPS, *cells)
            self.zeros(f"{name}.count", GROUPS, *cells)

    @abstractmethod
    def measure(self, pattern: Tensor, layer: Layer, rows: list[int]) -> Measured:
        """What texts of one length add.

        Parameters
        ----------
        pattern
            [text, head, query, key] float32, the queries that count and all keys.
        layer
            Its layer.
        rows
            Of the texts in the batch.
        """

    def update(self, layer: Layer) -> None:
        """Add the patterns of one layer."""
        if not layer.has(*self.parts):
            return
        for rows, pattern in layer.patterns():
            pattern = pattern[:, :, layer.batch.skip_first :]
            if pattern.shape[2]:
                groups = layer.batch.groups[rows]
                for name, (total, count) in self.measure(pattern, layer, rows).items():
                    self._add(name, layer, groups, total, count)

    def _add(
        self, name: str, layer: Layer, groups: np.ndarray, total: Tensor, count: Tensor | int
    ) -> None:
        cell: tuple[int | slice, ...] = (layer.number,)
        counts = torch.as_tensor(count, device=total.device).expand(len(total))
        if total.dim() == 2:
            cell = (layer.number, slice(0, layer.n_heads))
            counts = counts[:, None]
        accumulate(self.arrays[f"{name}.sum"], groups, cell, total)
        accumulate(self.arrays[f"{name}.count"], groups, cell, counts)

    def value(self, intervals: bool = True) -> Arrays:
        """The means, and their intervals."""
        found: Arrays = {}
        for name, output in self.outputs.items():
            sums = {key: self.arrays[f"{name}.{key}"] for key in ("sum", "count")}
            found |= mean_of(name, sums, intervals and output.interval)
        return found


def visible(pattern: Tensor) -> Tensor:
    """Keys that any head looks at: [..., query, key] bool, of patterns [..., head, query, key]."""
    return pattern.amax(-3) > 0


def even(seen: Tensor) -> Tensor:
    """Attention that is the same for every key that can be seen: [..., query, key] float32."""
    return seen / seen.sum(-1, keepdim=True)


def queries(batch: Batch, pattern: Tensor) -> Tensor:
    """Positions of the queries of a pattern whose first ones were left out: [query]."""
    return torch.arange(pattern.shape[-2], device=pattern.device) + batch.skip_first
