"""Coordinates of a state in the order in which what follows depends on them."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

Floats = NDArray[np.float64]

SMALLEST = 1e-10
"""Share of the largest eigenvalue below which one is rounding."""


@dataclass(frozen=True)
class Basis:
    """A linear map of states to coordinates, and back.

    Attributes
    ----------
    mean
        ``[d]``, which all coordinates are counted from.
    read
        ``[d, k]``: ``(state - mean) @ read`` are the coordinates.
    write
        ``[k, d]``: ``coordinates @ write + mean`` is the state, as far as they tell it.
    strength
        ``[k]``, descending: the variance of each coordinate, NaN where it was not asked for.
    """

    mean: Floats
    read: Floats
    write: Floats
    strength: Floats

    def __len__(self) -> int:
        return int(self.read.shape[1])

    def projector(self, kept: int) -> Floats:
        """``[d, d]``: a state less the mean, times this, has the first coordinates alone."""
        return np.asarray(self.read[:, :kept] @ self.write[:kept])


def interaction(mean: Floats, gram: Floats, sensitivity: Floats) -> Basis:
    r"""Coordinates that vary independently, and that what follows depends on independently.

    Parameters
    ----------
    mean, gram
        Of the states: ``[d]``, and their covariance ``[d, d]``, ``G = U D U^T``.
    sensitivity
        ``M = E[J^T J]``, ``[d, d]``, of what follows by the state.

    Returns
    -------
    Basis
        With ``V L V^T`` the eigendecomposition of ``D^1/2 U^T M U D^1/2``, coordinates are read by
        ``C = U D^-1/2 V L^1/2``. Their covariance is ``L``, which is also ``eig(G M)`` and so the
        same however the states are written down, and ``M`` in them is the identity.

    Notes
    -----
    Bushnaq et al. (2024), The Local Interaction Basis, arXiv 2405.10928. Directions in which states
    do not vary, or that nothing depends on, have no coordinate.

    Examples
    --------
    A linear layer, of inputs that are white: the squares of its singular values.

    >>> weight = np.array([[3.0, 0.0, 0.0], [0.0, 1.0, 0.0]])
    >>> interaction(np.zeros(3), np.eye(3), weight.T @ weight).strength.tolist()
    [9.0, 1.0]
    """
    variances, directions = _above(gram)
    scaled = directions * np.sqrt(variances)
    strength, turned = _above(scaled.T @ sensitivity @ scaled)
    root = np.sqrt(strength)
    read = (directions / np.sqrt(variances)) @ turned * root
    write = (scaled @ turned / root).T
    return Basis(mean, read, write, strength)


def principal(mean: Floats, gram: Floats) -> Basis:
    """Principal components: coordinates in the order of their variance alone."""
    variances, directions = _above(gram)
    return Basis(mean, directions, directions.T, variances)


def random_directions(mean: Floats, generator: np.random.Generator) -> Basis:
    """Coordinates along directions drawn at random, orthogonal to each other."""
    size = len(mean)
    directions = np.linalg.qr(generator.standard_normal((size, size)))[0]
    return Basis(mean, directions, directions.T, np.full(size, np.nan))


def _above(matrix: Floats) -> tuple[Floats, Floats]:
    """Eigenvalues that are not rounding, descending, and their vectors in columns."""
    values, vectors = np.linalg.eigh((matrix + matrix.T) / 2)
    values, vectors = values[::-1], vectors[:, ::-1]
    count = int((values > SMALLEST * max(values[0], 0.0)).sum()) if len(values) else 0
    return values[:count], vectors[:, :count]


def effective_rank(values: Floats) -> float:
    """Exponential of the entropy of shares (Roy and Vetterli 2007); 0 where all are 0.

    Examples
    --------
    >>> round(effective_rank(np.array([2.0, 2.0, 0.0])), 6)
    2.0
    """
    values = values[values > 0]
    if not len(values):
        return 0.0
    share = values / values.sum()
    return float(np.exp(-(share * np.log(share)).sum()))


def misfit(basis: Basis, gram: Floats, sensitivity: Floats) -> float:
    """How far coordinates are from what they have to be, of 1.

    Their covariance has to be diagonal with their strengths, and the sensitivity by them the
    identity, where both are known.
    """
    root = np.sqrt(basis.strength)
    own = basis.read.T @ gram @ basis.read / root[:, None] / root
    by_them = basis.write @ sensitivity @ basis.write.T
    unit = np.eye(len(basis))
    return float(max(np.abs(own - unit).max(initial=0), np.abs(by_them - unit).max(initial=0)))


def moved(gram: Floats, sensitivity: Floats, generator: np.random.Generator) -> float:
    """By how much strengths change when the states are written in other coordinates, of 1.

    The others are ``x A`` of a random invertible ``A``; covariance and sensitivity follow.
    """
    size = len(gram)
    left, right = (np.linalg.qr(generator.standard_normal((size, size)))[0] for _ in range(2))
    stretch = np.exp(generator.uniform(-1, 1, size))
    there, back = (left * stretch) @ right, right.T @ (left / stretch).T
    mean = np.zeros(size)
    own = interaction(mean, gram, sensitivity).strength
    other = interaction(mean, there.T @ gram @ there, back @ sensitivity @ back.T).strength
    count = min(len(own), len(other))
    if not count:
        return 0.0
    return float(np.abs(own[:count] - other[:count]).max() / own[0])


def counts(kept: Sequence[int] | None, width: int) -> list[int]:
    """How many coordinates are kept in turn, ascending; where it was not said, powers of 4.

    Examples
    --------
    >>> counts(None, 64)
    [1, 4, 16]
    """
    if kept is not None:
        return sorted(set(kept))
    return [4**power for power in range(width.bit_length()) if 4**power < width]
