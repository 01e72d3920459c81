"""Canonical correlations of the main directions of two sets of states: SVCCA and PWCCA."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any, ClassVar

import numpy as np
import torch
from torch import Tensor

from layerlens.errors import InputError
from layerlens.metrics.base import Arrays, ModelShape, Output
from layerlens.metrics.registry import register
from layerlens.metrics.similarity import Comparison, described
from layerlens.metrics.textmeans import gram

MOST = 10
"""With n tokens at most n / this many directions are kept, as too many always correlate."""
SMALLEST = 1e-13
"""Directions with a smaller share of the variance are rounding."""


@dataclass(frozen=True)
class Directions:
    """The main directions of a set of states.

    Attributes
    ----------
    basis
        [n, k] float64 orthonormal columns that span the states along these directions.
    loadings
        [k, d], the states in this basis: ``basis^T X``.
    share
        Share of the variance that they hold.
    """

    basis: Tensor
    loadings: Tensor
    share: float


def directions(rows: Tensor, variance: float, most: int) -> Directions:
    """Singular directions of centred states ``[n, d]`` that hold this share of the variance.

    Parameters
    ----------
    variance
        Share to be reached by as few as possible, 1 for all that are not rounding.
    most
        At most this many.
    """
    wide = len(rows) <= rows.shape[1]
    squares, vectors = torch.linalg.eigh(gram(rows))
    squares, vectors = squares.flip(0).clamp(min=0), vectors.flip(1)
    total = squares.sum().clamp(min=torch.finfo(squares.dtype).tiny)
    reached = (squares.cumsum(0) / total < variance * (1 - 1e-12)).sum()
    kept = min(int(reached) + 1, int((squares > SMALLEST * total).sum()), most)
    main = vectors[:, :kept] if wide else rows @ vectors[:, :kept]
    basis = torch.linalg.qr(main).Q  # orthonormal to rounding also where a direction is small
    return Directions(basis, basis.T @ rows, float(squares[:kept].sum() / total))


def correlations(one: Directions, other: Directions) -> tuple[Tensor, Tensor]:
    """Canonical correlations, descending, and the first set's canonical vectors in its basis."""
    vectors, found, _ = torch.linalg.svd(one.basis.T @ other.basis, full_matrices=False)
    return found.clamp(0, 1), vectors


class _Canonical(Comparison):
    """What SVCCA and PWCCA share."""

    source = "Raghu et al. (2017), SVCCA, arXiv 1706.05806"

    def __init__(
        self,
        shape: ModelShape,
        *,
        sample: int = 1024,
        unit: str = "token",
        standardize: bool = False,
        clusters: int | None = None,
        variance: float = 0.99,
    ) -> None:
        if not 0 < variance <= 1:
            raise InputError(f"variance is {variance}; expected a share above 0 and up to 1.")
        options: dict[str, Any] = {"standardize": standardize, "clusters": clusters}
        super().__init__(shape, sample=sample, unit=unit, variance=variance, **options)

    fewest = MOST

    def features(self, rows: Tensor) -> Directions:
        """The main directions."""
        return directions(rows, self.options["variance"], len(rows) // MOST)

    def compute(self, states: Tensor) -> Arrays:
        """Also what shuffled tokens give, and how much the kept directions hold."""
        kept = [self.features(self.rows(states[:, p])) for p in range(states.shape[1])]
        found = self.within(kept)
        order = torch.from_numpy(np.random.default_rng(0).permutation(len(states)))
        dealt = [replace(one, basis=one.basis[order]) for one in kept]
        chance = [[self.likeness(one, other) for other in dealt] for one in kept]
        return {
            **self.marked(found),
            f"{self.name}_chance": np.array(chance),
            f"{self.name}_kept": np.array([len(one.loadings) for one in kept], dtype=np.int32),
            f"{self.name}_share": np.array([one.share for one in kept]),
        }


def _outputs(name: str, long_name: str) -> dict[str, Output]:
    pair, point = ("point", "point_other"), ("point",)
    return {
        **described(name, long_name),
        f"{name}_chance": Output(pair, "1", f"{long_name} of shuffled tokens", interval=False),
        f"{name}_kept": Output(point, "directions", "directions kept", "int32", interval=False),
        f"{name}_share": Output(point, "1", "share of the variance kept", interval=False),
    }


@register
class Svcca(_Canonical):
    """Mean canonical correlation of the main directions."""

    name = "svcca"
    question = "Do two depths hold the same main directions, however mixed?"
    formula = (
        "mean canonical correlation of the singular directions that hold 99 % of the variance, at "
        "most one for ten tokens; _chance: with the tokens of one side shuffled (seed 0)"
    )
    outputs: ClassVar[Mapping[str, Output]] = _outputs("svcca", "SVCCA")

    def likeness(self, one: Directions, other: Directions) -> float:
        """The mean correlation; NaN where a side has no variance."""
        if not len(one.loadings) or not len(other.loadings):
            return float("nan")
        return float(torch.linalg.svdvals(one.basis.T @ other.basis).clamp(0, 1).mean())


@register
class Pwcca(_Canonical):
    """Canonical correlations weighted by what they hold of the first set of states."""

    name = "pwcca"
    symmetric = False
    question = "Does a depth hold the directions that matter at another one?"
    formula = (
        "sum_i w_i rho_i, w_i ~ sum_j |<h_i, x_j>|, h_i: canonical vectors of point, x_j: its "
        "columns; directions as in svcca; not symmetric"
    )
    source = "Morcos, Raghu and Bengio (2018), Insights on representational similarity, 1806.05759"
    outputs: ClassVar[Mapping[str, Output]] = _outputs("pwcca", "PWCCA")

    def likeness(self, one: Directions, other: Directions) -> float:
        """The weighted mean correlation; NaN where a side has no variance."""
        if not len(one.loadings) or not len(other.loadings):
            return float("nan")
        found, vectors = correlations(one, other)
        weights = (vectors.T @ one.loadings).abs().sum(-1)
        return float((weights * found).sum() / weights.sum())
