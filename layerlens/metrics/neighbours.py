"""Nearest neighbours of tokens that two depths have in common."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, ClassVar

import numpy as np
import torch
from torch import Tensor

from layerlens.errors import InputError
from layerlens.metrics.base import Arrays, ModelShape, Output
from layerlens.metrics.registry import register
from layerlens.metrics.similarity import Comparison, described


def neighbours(rows: Tensor, k: int) -> Tensor:
    """Which are the k nearest of each row by cosine, itself left out: [n, n] bool.

    Cosines that agree to 1e-10 are ties, and the lower index is nearer.
    """
    size = rows.norm(dim=-1, keepdim=True)
    rows = rows / torch.where(size > 0, size, 1.0)
    n = len(rows)
    near = (rows @ rows.T).round(decimals=10) - torch.arange(n) * (1e-11 / n)
    near.fill_diagonal_(-torch.inf)
    found = torch.zeros(n, n, dtype=torch.bool)
    return found.scatter_(1, near.topk(k, dim=-1).indices, True)


@register
class MutualNeighbours(Comparison):
    """Share of nearest neighbours in common."""

    name = "mutual_neighbours"
    question = "Do tokens have the same nearest neighbours at two depths?"
    formula = (
        "mean over sampled tokens of |N_k(i) of point and of point_other in common| / k, N_k: the "
        "k nearest by cosine; _chance: k / (n - 1), independent states"
    )
    source = "Huh et al. (2024), The Platonic Representation Hypothesis, arXiv 2405.07987"
    outputs: ClassVar[Mapping[str, Output]] = {
        **described("mutual_neighbours", "share of nearest neighbours in common"),
        "mutual_neighbours_chance": Output((), "1", "share expected by chance", interval=False),
    }

    def __init__(
        self,
        shape: ModelShape,
        *,
        sample: int = 1024,
        unit: str = "token",
        standardize: bool = False,
        clusters: int | None = None,
        k: int = 10,
    ) -> None:
        if not (isinstance(k, int) and 1 <= k < sample):
            raise InputError(f"k is {k}; expected a whole number from 1 and below sample.")
        self.fewest = max(4, k + 2)
        options: dict[str, Any] = {"standardize": standardize, "clusters": clusters}
        super().__init__(shape, sample=sample, unit=unit, k=k, **options)

    def rows(self, states: Tensor) -> Tensor:
        """The states as they are: angles between tokens are not those about their mean."""
        return super().rows(states) if self.options["standardize"] else states.double()

    def features(self, rows: Tensor) -> Tensor:
        """Who is near whom."""
        return neighbours(rows, self.options["k"])

    def likeness(self, one: Tensor, other: Tensor) -> float:
        """Share in common."""
        common = int((one & other).sum())
        return common / (len(one) * int(self.options["k"]))

    def compute(self, states: Tensor) -> Arrays:
        """Also what independent states would have in common."""
        chance = np.array(self.options["k"] / (len(states) - 1))
        return {**super().compute(states), "mutual_neighbours_chance": chance}
