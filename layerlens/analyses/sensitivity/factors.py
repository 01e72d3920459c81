"""A gradient of a weight matrix, kept as what it is made of.

The gradient of a linear map by its weight is ``slope^T given``: what the loss asks of each token's
output, times what the token gave. With fewer tokens than the matrix has rows and columns, its norm,
its singular values and its inner product with another one follow from products of tokens with
tokens, and the matrix itself is never made.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property

import torch
from torch import Tensor

from layerlens.metrics.entropy import renyi


@dataclass(frozen=True, eq=False)
class Rows:
    """Vectors of tokens, ``[n, width]``, and their products, which are made once."""

    values: Tensor

    @cached_property
    def gram(self) -> Tensor:
        """``[n, n]`` float64, the product of each with each."""
        return _gram(self.values)


@dataclass(frozen=True, eq=False)
class Factors:
    """A matrix ``slope^T given``, ``[out, in]``.

    Parameters
    ----------
    slope
        ``[n, out]``.
    given
        ``[n, in]``; may be shared with other matrices.
    """

    slope: Tensor
    given: Rows

    @classmethod
    def whole(cls, matrix: Tensor) -> Factors:
        """A matrix ``[out, in]`` that is there already."""
        unit = torch.eye(matrix.shape[0], dtype=matrix.dtype, device=matrix.device)
        return cls(unit, Rows(matrix))

    @property
    def shape(self) -> tuple[int, int]:
        """Rows and columns of the matrix."""
        return self.slope.shape[1], self.given.values.shape[1]

    @property
    def most(self) -> int:
        """The largest rank it can have."""
        return min(self.slope.shape[0], self.slope.shape[1], self.given.values.shape[1])

    def matrix(self) -> Tensor:
        """The matrix itself."""
        return self.slope.mT @ self.given.values

    @cached_property
    def singular(self) -> Tensor:
        """Singular values, ``[most]`` float64 on the CPU, ascending.

        Roots of eigenvalues: below ``1e-8`` of the largest they are rounding.
        """
        tokens = len(self.slope)
        if tokens < self.most_by_shape:
            # G G^T and L^T (given given^T) L with slope slope^T = L L^T have one spectrum.
            left = _root(_gram(self.slope))
            core = left.mT @ self.given.gram @ left
        else:
            matrix = self.matrix()
            core = _gram(matrix if matrix.shape[0] <= matrix.shape[1] else matrix.mT)
        found: Tensor = torch.linalg.eigvalsh(core).clamp(min=0).sqrt().cpu()
        return found

    @property
    def most_by_shape(self) -> int:
        """The smaller side."""
        return min(self.slope.shape[1], self.given.values.shape[1])


Shared = dict[tuple[int, int], Tensor]
"""Products of what two matrices were given, by both's `Rows`: q, k and v have the same ones."""


def inner(first: Factors, second: Factors, shared: Shared | None = None) -> float:
    """Sum of the products of the entries of two matrices of one shape.

    Parameters
    ----------
    shared
        Where products are kept that further matrices have, too; for as long as these are there.
    """
    (n, out), (m, _) = first.slope.shape, second.slope.shape
    width = first.given.values.shape[1]
    if n * m * (out + width) <= (n + m) * out * width:
        place = id(first.given), id(second.given)
        given = None if shared is None else shared.get(place)
        if given is None:
            given = first.given.values @ second.given.values.mT
            if shared is not None:
                shared[place] = given
        product = (first.slope @ second.slope.mT) * given
    else:
        product = first.matrix() * second.matrix()
    return float(product.sum(dtype=torch.float32))


@dataclass(frozen=True)
class Spectrum:
    """What the singular values of matrices say that belong together as blocks of one.

    Attributes
    ----------
    norm, nuclear
        Root of the sum of their squares (Frobenius norm), and their sum.
    rank
        Exponential of the entropy of their shares (Roy and Vetterli 2007); NaN where all are 0.
    share
        The rank over the largest that is possible.
    """

    norm: float
    nuclear: float
    rank: float
    share: float

    @classmethod
    def of(cls, parts: Sequence[Factors]) -> Spectrum:
        """Read them off all parts together.

        Examples
        --------
        >>> one = Factors(torch.tensor([[3.0, 0.0]]), Rows(torch.tensor([[0.0, 2.0, 0.0]])))
        >>> found = Spectrum.of([one])
        >>> round(found.norm, 6), round(found.nuclear, 6), round(found.rank, 6)
        (6.0, 6.0, 1.0)
        """
        values = torch.cat([part.singular for part in parts])
        total = float(values.sum())
        rank = float(renyi(values / total).exp()) if total > 0 else float("nan")
        share = rank / sum(part.most for part in parts)
        return cls(float(values.norm()), total, rank, share)


def _gram(rows: Tensor) -> Tensor:
    if rows.device.type == "mps":  # has no float64
        rows = rows.cpu()
    rows = rows.double()
    return rows @ rows.mT


def _root(gram: Tensor) -> Tensor:
    """``L`` with ``L L^T`` the matrix, up to rounding; some tokens are asked for nothing."""
    lifted = gram.clone()
    lifted.diagonal().add_(len(gram) * torch.finfo(gram.dtype).eps * gram.diagonal().max())
    found: Tensor
    found, failed = torch.linalg.cholesky_ex(lifted)
    if failed:  # of rank so low that rounding makes it indefinite, or of zeros
        values, vectors = torch.linalg.eigh(gram)
        found = vectors * values.clamp(min=0).sqrt()
    return found
