"""Activations as sums of a few non-negative factors, exact in their signs."""

from __future__ import annotations

import warnings
from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
from scipy.optimize import linear_sum_assignment, nnls
from sklearn.decomposition import NMF
from sklearn.exceptions import ConvergenceWarning

from layerlens.errors import InputError

SIGNS = ("double", "plain")
ROUNDS = 1000
"""Rounds of the factorisation, at most."""
TOLERANCE = 1e-4
"""Relative change below which it ends."""


@dataclass(frozen=True)
class Signs:
    """How activations become non-negative, and what comes of it activations again.

    Attributes
    ----------
    doubled
        Whether each entry has two: what of it is above zero, and what is below.
    """

    doubled: bool

    def open(self, x: np.ndarray) -> np.ndarray:
        """Non-negative rows ``[n, width or 2 width]``.

        Raises
        ------
        InputError
            Entries are below zero, and are not doubled.
        """
        if self.doubled:
            return np.concatenate([x.clip(min=0), (-x).clip(min=0)], -1)
        if x.size and x.min() < 0:
            raise InputError(
                f"These activations are signed (the least is {x.min():.3g}), and a factorisation "
                "into non-negative parts needs none below zero; moving them up would change what "
                "they mean. Use signs='double', or the neurons of a ReLU."
            )
        return x

    def fold(self, y: np.ndarray) -> np.ndarray:
        """The activations that rows like those of :meth:`open` stand for."""
        if not self.doubled:
            return y
        above, below = np.split(y, 2, -1)
        found: np.ndarray = above - below
        return found


@dataclass(frozen=True, eq=False)
class Factors:
    """Concepts: non-negative rows whose non-negative sums are activations.

    Attributes
    ----------
    rows
        ``[concept, width or 2 width]`` float64, of length 1 as long as they are not zero.
    signs
        How activations become non-negative.
    """

    rows: np.ndarray
    signs: Signs

    @classmethod
    def of(cls, rows: np.ndarray, signs: Signs) -> Factors:
        """Rows divided by their length, which their coefficients have then."""
        rows = np.asarray(rows, dtype=np.float64)
        return cls(rows / np.linalg.norm(rows, axis=1, keepdims=True).clip(1e-12), signs)

    @property
    def directions(self) -> np.ndarray:
        """``[concept, width]``: what a concept adds to an activation."""
        return self.signs.fold(self.rows)

    def coefficients(self, opened: np.ndarray, tick: Callable[[], None]) -> np.ndarray:
        """How much of each concept is in non-negative rows: ``[n, concept]``, none below zero.

        The exact least squares under that constraint (Lawson and Hanson 1974), in the span of the
        concepts, where it is small.
        """
        basis, small = np.linalg.qr(self.rows.T)
        within = np.asarray(opened, dtype=np.float64) @ basis
        found = np.empty((len(opened), len(self.rows)))
        for number, one in enumerate(within):
            if number % 256 == 0:
                tick()
            found[number] = nnls(small, one)[0]
        return found

    def written(self, coefficients: np.ndarray) -> np.ndarray:
        """The activations ``[..., width]`` of coefficients ``[..., concept]``."""
        found: np.ndarray = coefficients @ self.directions
        return found

    def shuffled(self, seed: int) -> Factors:
        """The entries of each concept in another order."""
        return Factors(np.random.default_rng(seed).permuted(self.rows, axis=1), self.signs)


def factorised(
    opened: np.ndarray, number: int, signs: Signs, seed: int, init: str = "nndsvda"
) -> tuple[Factors, bool]:
    """Concepts of non-negative rows, those that hold most first, and whether the fit ended."""
    made = NMF(number, init=init, tol=TOLERANCE, max_iter=ROUNDS, random_state=seed)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", ConvergenceWarning)  # is told as a number
        used = made.fit_transform(np.asarray(opened, dtype=np.float32))
    size = used.astype(np.float64).sum(0) * np.linalg.norm(made.components_, axis=1)
    order = np.argsort(-size, kind="stable")
    return Factors.of(made.components_[order], signs), made.n_iter_ < ROUNDS


def of_activations(opened: np.ndarray, number: int, signs: Signs, seed: int) -> Factors:
    """As many of the activations themselves, drawn at random, in the place of concepts."""
    drawn = np.random.default_rng(seed).permutation(len(opened))[:number]
    return Factors.of(opened[drawn], signs)


def explained(x: np.ndarray, y: np.ndarray, mean: np.ndarray) -> float:
    """Share of what lies around a mean that is written again."""
    around = np.square(x - mean).sum()
    return float(1 - np.square(x - y).sum() / around) if around > 0 else float("nan")


def components_explain(train: np.ndarray, test: np.ndarray, number: int) -> float:
    """The same by the principal components of the training rows, without a mean of their own."""
    wide = np.asarray(train, dtype=np.float64)
    _, basis = np.linalg.eigh(wide.T @ wide)
    most = basis[:, ::-1][:, :number]
    return explained(test, test @ most @ most.T, wide.mean(0))


def matched(mine: Factors, theirs: Factors) -> np.ndarray:
    """Cosine of each concept with its partner, of the pairing with the largest sum."""
    cosines = mine.rows @ theirs.rows.T
    here, there = linear_sum_assignment(-cosines)
    found: np.ndarray = cosines[here, there]
    return found
