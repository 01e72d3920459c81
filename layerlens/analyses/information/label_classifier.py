"""How a linear classifier of labels agrees with the means of their states: NC2 to NC4."""

from __future__ import annotations

from dataclasses import dataclass
from typing import NamedTuple

import numpy as np

from layerlens.analyses.information.class_geometry import SMALLEST, class_means, simplex

NOTHING = float("nan")


class Agreement(NamedTuple):
    """What a classifier and the means of labels have in common.

    Attributes
    ----------
    equinorm
        Spread of the lengths of the classifier's rows, less their mean, as a share of their mean.
    equiangle
        Mean distance of the cosines between them from ``-1 / (C - 1)``.
    duality
        ``|W / |W| - M / |M||^2`` of these rows and the centred means of the texts set apart: from 0
        (the same up to scale) over 2 (at right angles) to 4.
    disagreement
        Share of the texts set apart that the classifier gives another label than the nearest mean
        of the other texts.
    """

    equinorm: float
    equiangle: float
    duality: float
    disagreement: float


@dataclass(frozen=True)
class Linear:
    """Scores ``weights @ state + bias`` of each label.

    Attributes
    ----------
    weights
        ``[label, d]`` float64.
    bias
        ``[label]``.
    """

    weights: np.ndarray
    bias: np.ndarray


class RidgeFits:
    """Least squares with a ridge from states to labels, for any labels of the same states.

    Each label's column is 1 for its texts and 0 for others, less its mean; one decomposition of
    the states serves all labels (Hoerl and Kennard, 1970, Ridge Regression).

    Parameters
    ----------
    states
        ``[n, d]`` float64.
    ridge
        In units of the mean squared length of a centred state.

    Examples
    --------
    >>> fits = RidgeFits(np.array([[-1.0], [1.0]]), ridge=1.0)
    >>> fits.of(np.array([0, 1])).weights.round(6).tolist()
    [[-0.25], [0.25]]
    """

    def __init__(self, states: np.ndarray, ridge: float) -> None:
        self.mean = states.mean(0)
        self.centred = states - self.mean
        left, self.sizes, self.axes = np.linalg.svd(self.centred, full_matrices=False)
        self.strength = ridge * float((self.sizes**2).sum())
        self.left = left

    def of(self, place: np.ndarray) -> Linear:
        """The classifier of labels ``place [n]``."""
        wanted = np.equal.outer(place, np.arange(place.max() + 1)).astype(np.float64)
        share = wanted.mean(0)
        with np.errstate(invalid="ignore"):  # states that are all the same teach nothing
            shrunk = self.sizes / (self.sizes**2 + self.strength)
        weights = ((wanted - share).T @ self.left * shrunk) @ self.axes
        return Linear(weights, share - weights @ self.mean)

    def error(self, found: Linear, place: np.ndarray) -> float:
        """How far a classifier is from the normal equations, of the largest entry."""
        wanted = np.equal.outer(place, np.arange(len(found.weights))).astype(np.float64)
        off = wanted - wanted.mean(0) - self.centred @ found.weights.T
        gradient = off.T @ self.centred - self.strength * found.weights
        return float(np.abs(gradient).max() / max(np.abs(wanted.T @ self.centred).max(), 1e-300))


def agreement(
    classifier: Linear,
    known: tuple[np.ndarray, np.ndarray],
    apart: tuple[np.ndarray, np.ndarray],
) -> Agreement:
    """Compare a classifier with the means of labels.

    Rows are compared less their mean over labels, which changes no decision between these.

    Parameters
    ----------
    classifier
        Fitted on the known states, or on none.
    known, apart
        States ``[n, d]`` float64 and the number ``[n]`` of each one's label; both have all labels.

    References
    ----------
    Papyan, Han and Donoho (2020), Prevalence of Neural Collapse during the terminal phase of deep
    learning training, arXiv 2008.08186.

    Examples
    --------
    The corners of a simplex, and the classifier whose rows they are.

    >>> corners = (np.eye(3) - 1 / 3, np.arange(3))
    >>> found = agreement(Linear(np.eye(3), np.zeros(3)), corners, corners)
    >>> [round(value, 9) for value in found]
    [0.0, 0.0, 0.0, 0.0]
    """
    rows = classifier.weights - classifier.weights.mean(0)
    means = class_means(*known)[0]
    others = class_means(*apart)[0]
    others = others - others.mean(0)
    if not (_has_size(rows, classifier.weights) and _has_size(others, apart[0])):
        return Agreement(NOTHING, NOTHING, NOTHING, NOTHING)
    gap = rows / np.linalg.norm(rows) - others / np.linalg.norm(others)
    states = apart[0]
    decided = (states @ classifier.weights.T + classifier.bias).argmax(1)
    origin = means.mean(0)
    nearest = ((means - origin) ** 2).sum(1) - 2 * (states - origin) @ (means - origin).T
    differ = float((decided != nearest.argmin(1)).mean())
    return Agreement(*simplex(rows), float((gap**2).sum()), differ)


def _has_size(centred: np.ndarray, whole: np.ndarray) -> bool:
    """Whether rows differ by more than rounding."""
    return float(np.abs(centred).max()) > SMALLEST * float(np.abs(whole).max())
