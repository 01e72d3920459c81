"""Centred kernel alignment with linear kernels, with and without its bias."""

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

KORNBLITH = (
    "Kornblith et al. (2019), Similarity of Neural Network Representations Revisited, arXiv "
    "1905.00414; debiased and in mini-batches: Nguyen, Raghu and Kornblith (2021), arXiv 2010.15327"
)
CHUNK = 128
"""Rows of the Gram matrices of all depths that are held at once."""


def hsic(rows: Tensor, others: Tensor, *, debiased: bool = True) -> np.ndarray:
    """Hilbert-Schmidt independence of linear kernels, for every two sets of states.

    Parameters
    ----------
    rows, others
        [set, n, d] float64, centred, the same n tokens; d may differ.
    debiased
        HSIC_1 of Song et al. (2012), "Feature Selection via Dependence Maximization": Gram
        matrices without diagonal, mean 0 for independent states. Else ``tr(K L) / n^2``.

    Returns
    -------
    np.ndarray
        [set, other set] float64.

    Raises
    ------
    InputError
        For fewer than four tokens, of which HSIC_1 is not defined.
    """
    n = rows.shape[1]
    if n < 4:
        raise InputError(f"HSIC needs at least 4 tokens, not {n}.")
    products = rows.new_zeros(len(rows), len(others))
    sums, other_sums = rows.new_zeros(len(rows), n), rows.new_zeros(len(others), n)
    for start in range(0, n, CHUNK):
        chunk = slice(start, min(start + CHUNK, n))
        one, other = _gram(rows, chunk, debiased), _gram(others, chunk, debiased)
        products += one.flatten(1) @ other.flatten(1).T
        sums[:, chunk], other_sums[:, chunk] = one.sum(-1), other.sum(-1)
    if not debiased:
        return (products / n**2).numpy()
    whole = sums.sum(-1)[:, None] * other_sums.sum(-1) / ((n - 1) * (n - 2))
    crossed = sums @ other_sums.T * (2 / (n - 2))
    return ((products + whole - crossed) / (n * (n - 3))).numpy()


def _gram(rows: Tensor, chunk: slice, debiased: bool) -> Tensor:
    """Rows of the Gram matrices: [set, chunk, n], without diagonal if debiased."""
    found = rows[:, chunk] @ rows.transpose(1, 2)
    if debiased:
        found.diagonal(chunk.start, 1, 2).zero_()
    return found


def aligned(cross: np.ndarray, own: np.ndarray, other: np.ndarray) -> np.ndarray:
    """CKA from HSIC of each with each, and of each with itself; NaN where that is not above 0."""
    with np.errstate(invalid="ignore", divide="ignore"):
        scale = np.sqrt(np.where(own > 0, own, np.nan))[:, None]
        return np.asarray(cross / (scale * np.sqrt(np.where(other > 0, other, np.nan))))


@register
class Cka(Comparison):
    """Linear CKA of a sample of tokens."""

    name = "cka"
    question = "Are the states at two depths alike, but for rotation and scale?"
    formula = (
        "HSIC(X, Y) / sqrt(HSIC(X, X) HSIC(Y, Y)), HSIC_1 of X X^T and Y Y^T (debiased=False: "
        "|X^T Y|^2, X and Y centred); batch: each HSIC is averaged over batches of the sample; "
        "_cluster: runs of neighbouring depths that are alike"
    )
    source = KORNBLITH
    outputs: ClassVar[Mapping[str, Output]] = described("cka", "linear CKA")

    def __init__(
        self,
        shape: ModelShape,
        *,
        sample: int = 1024,
        unit: str = "token",
        standardize: bool = False,
        clusters: int | None = None,
        debiased: bool = True,
        batch: int | None = None,
    ) -> None:
        if batch is not None and not (isinstance(batch, int) and batch >= 4):
            raise InputError(f"batch is {batch}; expected a whole number from 4, or None.")
        options: dict[str, Any] = {"standardize": standardize, "clusters": clusters}
        options |= {"debiased": debiased, "batch": batch}
        super().__init__(shape, sample=sample, unit=unit, **options)

    def features(self, rows: Tensor) -> Tensor:
        """The states themselves."""
        return rows

    def likeness(self, one: Tensor, other: Tensor) -> float:
        """CKA of two sets of states."""
        own, cross, others = self._averaged(one[None], other[None])
        return float(aligned(cross, np.diagonal(own), np.diagonal(others))[0, 0])

    def between(self, states: Tensor, others: Tensor | None = None) -> np.ndarray:
        """All depths at once; see :meth:`Comparison.between`."""
        mine = torch.stack([self.rows(states[:, point]) for point in range(states.shape[1])])
        theirs = mine
        if others is not None:
            theirs = torch.stack([self.rows(others[:, point]) for point in range(others.shape[1])])
        own, cross, other = self._averaged(mine, theirs)
        found: np.ndarray = aligned(cross, np.diagonal(own), np.diagonal(other))
        return found

    def _averaged(self, mine: Tensor, theirs: Tensor) -> tuple[np.ndarray, ...]:
        """HSIC of the first with themselves, of both, of the second: means over batches."""
        n = mine.shape[1]
        size = min(self.options["batch"] or n, n)
        found: list[tuple[np.ndarray, ...]] = []
        for start in range(0, n - size + 1, size):
            one, other = mine[:, start : start + size], theirs[:, start : start + size]
            if not self.options["debiased"]:
                one, other = (x - x.mean(1, keepdim=True) for x in (one, other))
            pairs = [(one, other)] if mine is theirs else [(one, one), (one, other), (other, other)]
            values = [hsic(a, b, debiased=self.options["debiased"]) for a, b in pairs]
            found.append(tuple(values * 3 if mine is theirs else values))
        return tuple(np.mean(kind, axis=0) for kind in zip(*found, strict=True))
