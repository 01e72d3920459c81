"""Representational similarity analysis: which tokens are far apart at two depths."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, ClassVar

import numpy as np
import torch
from torch import Tensor

from layerlens.errors import InputError
from layerlens.metrics.base import ModelShape, Output
from layerlens.metrics.registry import register
from layerlens.metrics.similarity import Comparison, described

DISTANCES = ("correlation", "cosine", "euclidean")
TIE = 1e-9
"""Distances that differ by less, relative to the largest, have the same rank."""


def distances(rows: Tensor, kind: str) -> Tensor:
    """Distances of all pairs of rows, the upper triangle without diagonal, float64.

    ``correlation``: 1 - Pearson's r of two rows; ``cosine``: 1 - their cosine; ``euclidean``.
    Rows without a direction have cosine 0 with all others.
    """
    if kind == "correlation":
        rows = rows - rows.mean(-1, keepdim=True)
    square = rows.square().sum(-1)
    if kind != "euclidean":
        rows = rows / torch.where(square > 0, square, 1.0).sqrt()[:, None]
        found = 1 - rows @ rows.T
    else:
        found = (square[:, None] + square - 2 * rows @ rows.T).clamp(min=0).sqrt()
    n = len(rows)
    return found[tuple(torch.triu_indices(n, n, 1))]


def ranks(values: Tensor) -> Tensor:
    """Ranks from 0, ties with their mean rank, float64."""
    step = TIE * float(values.abs().max())
    rounded = np.round(values.numpy() / step) if step else values.numpy()
    _, place, counts = np.unique(rounded, return_inverse=True, return_counts=True)
    last = counts.cumsum()
    return torch.from_numpy((last - (counts + 1) / 2)[place])


@register
class Rsa(Comparison):
    """Correlation of the distances between tokens at two depths."""

    name = "rsa"
    question = "Are the same tokens near and far at two depths?"
    formula = (
        "Spearman correlation (rank=False: Pearson) of the distances 1 - r(h_i, h_j) of all pairs "
        "i < j of sampled tokens; _cluster: runs of neighbouring depths that are alike"
    )
    source = "Kriegeskorte, Mur and Bandettini (2008), Representational similarity analysis"
    outputs: ClassVar[Mapping[str, Output]] = described("rsa", "RSA")

    def __init__(
        self,
        shape: ModelShape,
        *,
        sample: int = 512,
        unit: str = "token",
        standardize: bool = False,
        clusters: int | None = None,
        distance: str = "correlation",
        rank: bool = True,
    ) -> None:
        if distance not in DISTANCES:
            raise InputError(f"distance is {distance!r}; expected one of {', '.join(DISTANCES)}.")
        options: dict[str, Any] = {"standardize": standardize, "clusters": clusters}
        options |= {"distance": distance, "rank": rank}
        super().__init__(shape, sample=sample, unit=unit, **options)

    def rows(self, states: Tensor) -> Tensor:
        """The states as they are: angles between tokens are not those about their mean."""
        return super().rows(states) if self.options["standardize"] else states.double()

    def features(self, rows: Tensor) -> Tensor:
        """The distances, or their ranks, with mean 0 and length 1."""
        found = distances(rows, self.options["distance"])
        if self.options["rank"]:
            found = ranks(found)
        found = found - found.mean()
        length: Tensor = found.norm()
        return found / length

    def likeness(self, one: Tensor, other: Tensor) -> float:
        """Their correlation; NaN where all distances are the same."""
        return float(one @ other)
