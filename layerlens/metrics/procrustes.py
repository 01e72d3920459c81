"""How near two sets of states come when one may be rotated onto the other."""

from __future__ import annotations

from collections.abc import Mapping
from typing import ClassVar

import torch
from torch import Tensor

from layerlens.metrics.base import ModelShape, Output
from layerlens.metrics.registry import register
from layerlens.metrics.similarity import Comparison, described


@register
class Procrustes(Comparison):
    """Orthogonal Procrustes similarity."""

    name = "procrustes"
    question = "Can the states at one depth be rotated onto those at another?"
    formula = (
        "|X^T Y|_* (sum of singular values), X and Y centred and of Frobenius norm 1; the squared "
        "distance after the best rotation is 2 - 2 of it; _cluster: runs of depths alike"
    )
    source = "Ding, Denain and Steinhardt (2021), Grounding Representation Similarity, 2108.01661"
    outputs: ClassVar[Mapping[str, Output]] = described("procrustes", "Procrustes similarity")

    def __init__(
        self,
        shape: ModelShape,
        *,
        sample: int = 256,
        unit: str = "token",
        standardize: bool = False,
        clusters: int | None = None,
    ) -> None:
        super().__init__(
            shape, sample=sample, unit=unit, standardize=standardize, clusters=clusters
        )

    def features(self, rows: Tensor) -> Tensor:
        """The states in a basis of their own, ``[n, min(n, d)]``: no singular value changes."""
        length = float(rows.norm())
        rows = rows / (length or 1.0)
        if rows.shape[1] <= len(rows):
            return rows
        left, sizes, _ = torch.linalg.svd(rows, full_matrices=False)
        found: Tensor = left * sizes
        return found

    def likeness(self, one: Tensor, other: Tensor) -> float:
        """The nuclear norm; NaN where all states of a side are the same."""
        if not (bool(one.any()) and bool(other.any())):
            return float("nan")
        return float(torch.linalg.svdvals(one.T @ other).sum())
