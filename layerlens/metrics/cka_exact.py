"""Debiased linear CKA over every token, from sums that do not grow with the corpus."""

from __future__ import annotations

from collections.abc import Mapping
from typing import ClassVar

import numpy as np
import torch
from torch import Tensor

from layerlens.errors import InputError, MemoryLimitError
from layerlens.metrics.base import Arrays, LayerMetric, ModelShape, Output
from layerlens.metrics.batch import Batch
from layerlens.metrics.cka import KORNBLITH, aligned
from layerlens.metrics.clusters import contiguous
from layerlens.metrics.layer import Layer
from layerlens.metrics.registry import register
from layerlens.metrics.similarity import described


@register
class CkaExact(LayerMetric):
    """Linear CKA of all tokens.

    HSIC_1 needs the Gram matrices only in sums over pairs of tokens, and these follow from
    sums over tokens: of the states, their products, their squared lengths.
    """

    name = "cka_exact"
    question = "Are the states of all tokens at two depths alike, but for rotation and scale?"
    formula = "as cka, debiased, over all tokens instead of a sample"
    units = "1"
    axes = ("point", "point_other")
    parts = ("pre", "post")
    source = KORNBLITH
    cost = "1 pass for all metrics; work and memory as the square of points x d_model"
    outputs: ClassVar[Mapping[str, Output]] = described("cka_exact", "linear CKA of all tokens")

    def __init__(
        self,
        shape: ModelShape,
        *,
        clusters: int | None = None,
        memory_limit: int = 1_000_000_000,
    ) -> None:
        super().__init__(shape, clusters=clusters, memory_limit=memory_limit)
        points, width = shape.sizes["point"], shape.d_model
        if clusters is not None and not 1 <= clusters <= points:
            raise InputError(f"clusters is {clusters}; expected 1 to {points}, or None.")
        needed = 8 * (points * width) ** 2
        if needed > memory_limit:
            raise MemoryLimitError(
                f"cka_exact would keep {needed / 1e9:.1f} GB for {points} states of width {width}, "
                f"above the limit of {memory_limit / 1e9:.1f} GB: use cka, or raise memory_limit."
            )
        self.zeros("tokens", 1)
        self.zeros("sum", points, width)
        self.zeros("square", points)
        self.zeros("squares", points, points)
        self.zeros("weighted", points, points, width)
        self.zeros("product", points * width, points * width)

    def start(self, batch: Batch) -> None:
        """Make room for the states of this pass."""
        self._states: list[Tensor] = []

    def update(self, layer: Layer) -> None:
        """Take the states after a layer, and before the first one those there too."""
        if layer.number == 0:
            self._states.append(layer.rows("pre").to("cpu", torch.float64))
        self._states.append(layer.rows("post").to("cpu", torch.float64))

    def end(self, batch: Batch) -> None:
        """Add this pass to the sums."""
        states = torch.stack(self._states, dim=1)
        del self._states
        sizes = states.square().sum(-1)
        flat = states.flatten(1)
        self.arrays["tokens"][0] += len(states)
        self.arrays["sum"] += states.sum(0).numpy()
        self.arrays["square"] += sizes.sum(0).numpy()
        self.arrays["squares"] += (sizes.T @ sizes).numpy()
        self.arrays["weighted"] += (sizes.T @ flat).view(-1, *states.shape[1:]).numpy()
        self.arrays["product"] += (flat.T @ flat).numpy()

    def value(self, intervals: bool = True) -> Arrays:
        """The matrix and its runs; computed anew only with ``intervals``, as it takes time."""
        points = self.shape.sizes["point"]
        if not intervals or self.arrays["tokens"][0] < 4:
            blank = np.full((points, points), np.nan)
            return {self.name: blank, "cka_exact_cluster": np.full(points, -1, dtype=np.int32)}
        cross = self.hsic()
        own = np.diagonal(cross)
        found = aligned(cross, own, own)
        return {
            self.name: found,
            "cka_exact_cluster": contiguous(found, self.options["clusters"]),
        }

    def hsic(self) -> np.ndarray:
        """HSIC_1 of every two points from the sums: [point, point]."""
        n = float(self.arrays["tokens"][0])
        sums, squares = self.arrays["sum"], self.arrays["squares"]
        points, width = sums.shape
        product = self.arrays["product"].reshape(points, width, points, width)
        trace = np.einsum("aibj,aibj->ab", product, product) - squares
        ones = np.square(sums).sum(-1) - self.arrays["square"]
        # weighted[a, b] sums |h_a|^2 h_b over tokens.
        one_sided = np.einsum("abi,bi->ab", self.arrays["weighted"], sums)
        crossed = np.einsum("ai,aibj,bj->ab", sums, product, sums, optimize=True)
        crossed = crossed - one_sided - one_sided.T + squares
        whole = trace + np.outer(ones, ones) / ((n - 1) * (n - 2)) - 2 / (n - 2) * crossed
        return np.asarray(whole / (n * (n - 3)))
