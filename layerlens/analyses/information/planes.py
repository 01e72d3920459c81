"""The plane that states are drawn in: principal components, discriminants, one beside the next."""

from __future__ import annotations

from dataclasses import dataclass, replace

import numpy as np

from layerlens.analyses.information.class_geometry import class_means

SMALLEST = 1e-12
"""Share of the largest variance below which a direction has none."""
SAME = 1e-10
"""Share of their mean square below which the variance of states is rounding, and they are one."""
LEAST = 1e-6
"""Scatter of labels, in units of that within them, below which there is none."""
ALIGNS = ("signs", "rotation")


@dataclass(frozen=True)
class Principal:
    """Principal components of some states.

    Attributes
    ----------
    mean
        ``[d]``.
    axes
        ``[rank, d]``: directions of length 1, that of the largest variance first.
    variance
        ``[rank]``: of the states along each.
    """

    mean: np.ndarray
    axes: np.ndarray
    variance: np.ndarray

    def __call__(self, states: np.ndarray) -> np.ndarray:
        """Scores of states along all components, ``[n, rank]``."""
        scores: np.ndarray = (states - self.mean) @ self.axes.T
        return scores


@dataclass(frozen=True)
class Plane:
    """Two axes through the mean of what they were fitted to.

    Attributes
    ----------
    mean
        ``[d]``.
    axes
        ``[2, d]``, of a length that gives coordinates their unit; 0 where there is none.
    off
        Of discriminants: how far the labels' ratio in the plane is from its eigenvalue, as a share.
    """

    mean: np.ndarray
    axes: np.ndarray
    off: float = 0.0

    def __call__(self, states: np.ndarray) -> np.ndarray:
        """Coordinates of states, ``[n, 2]``."""
        found: np.ndarray = (states - self.mean) @ self.axes.T
        return found


def principal(states: np.ndarray) -> Principal:
    """Principal components, by the eigenvectors of the smaller of both products.

    Parameters
    ----------
    states
        ``[n, d]`` float64.

    Examples
    --------
    >>> found = principal(np.array([[2.0, 0], [-2, 0], [0, 1], [0, -1]]))
    >>> np.round(found.variance, 9).tolist(), np.abs(found.axes).round(9).tolist()
    ([2.0, 0.5], [[1.0, 0.0], [0.0, 1.0]])
    """
    mean = states.mean(0)
    off = states - mean
    few = len(off) <= off.shape[1]
    values, vectors = np.linalg.eigh(off @ off.T if few else off.T @ off)
    values, vectors = values[::-1], vectors[:, ::-1]
    same = float((off**2).sum()) <= SAME * float((states**2).sum())
    kept = values > (np.inf if same else SMALLEST * float(values[0]))
    values, vectors = values[kept], vectors[:, kept]
    axes = (vectors / np.sqrt(values)).T @ off if few else vectors.T
    return Principal(mean, axes, values / len(off))


def main_plane(base: Principal) -> Plane:
    """The first two components, in units of the root mean square distance from the mean.

    Drawn in these units a cloud has the size that its share of the variance gives it, at any
    depth: all of it lies within about 1 where two components hold everything.

    Examples
    --------
    >>> states = np.array([[2.0, 0], [-2, 0], [0, 1], [0, -1]])
    >>> main_plane(principal(states))(states).std(0).round(3).tolist()
    [0.894, 0.447]
    """
    axes = np.zeros((2, len(base.mean)))
    found = base.axes[:2] / np.sqrt(max(float(base.variance.sum()), 1e-300))
    axes[: len(found)] = found
    return Plane(base.mean, axes)


def discriminants(base: Principal, states: np.ndarray, place: np.ndarray, components: int) -> Plane:
    """The two directions along which labels lie furthest apart for their spread.

    Linear discriminant analysis (Fisher 1936) within the first principal components, with the
    covariance within labels of Ledoit and Wolf (2004). Two labels have one such direction; the
    other axis is then the principal component of what is left without it. Coordinates are in units
    of the standard deviation of the fitted states along an axis, so that layers can be compared.

    Parameters
    ----------
    base
        Of these states.
    states
        ``[n, d]`` float64.
    place
        ``[n]``: number of the label of each, from 0; there are two or more.
    components
        How many principal components it is fitted in, at most.

    Examples
    --------
    >>> states = np.array([[0.0, 9], [1, -9], [10, 9], [11, -9]])
    >>> plane = discriminants(principal(states), states, np.array([0, 0, 1, 1]), 2)
    >>> np.abs(plane(states)[:, 0]).round(1).tolist()
    [1.0, 1.0, 1.0, 1.0]
    """
    from scipy.linalg import eigh
    from sklearn.covariance import ledoit_wolf

    inner = base.axes[:components]
    if not len(inner):
        return main_plane(base)
    scores = (states - base.mean) @ inner.T
    means, sizes = class_means(scores, place)
    within = np.atleast_2d(ledoit_wolf(scores - means[place], assume_centered=True)[0])
    # Labels that are a point each have no spread, and lie apart along any direction of their means.
    within += SMALLEST * float((scores**2).mean()) * np.eye(len(inner))
    between = (means.T * sizes) @ means / len(scores)
    values, vectors = eigh(between, within)
    weights = vectors[:, ::-1].T[:2]
    if len(means) == 2 and len(inner) > 1:
        weights[1] = _besides(scores, weights[0])
    spread = np.maximum((scores @ weights.T).std(0), SMALLEST)
    axes = np.zeros((2, states.shape[1]))
    axes[: len(weights)] = (weights / spread[:, None]) @ inner
    plane = Plane(base.mean, axes)
    # What the eigenvalue says of the labels, found again in what is drawn.
    drawn = class_means(plane(states)[:, :1], place)[0][:, 0] * spread[0]
    ratio = float(sizes @ drawn**2 / len(scores) / (weights[0] @ within @ weights[0]))
    return replace(plane, off=abs(ratio - values[-1]) / max(float(values[-1]), LEAST))


def _besides(scores: np.ndarray, first: np.ndarray) -> np.ndarray:
    """The main direction of what is left without another."""
    unit = first / np.linalg.norm(first)
    left = scores - np.outer(scores @ unit, unit)
    found: np.ndarray = np.linalg.eigh(left.T @ left)[1][:, -1]
    return found


def shares(plane: Plane, states: np.ndarray) -> np.ndarray:
    """Share of the variance of states along each axis, ``[2]``; NaN where they are all the same.

    Examples
    --------
    >>> states = np.array([[2.0, 0], [-2, 0], [0, 1], [0, -1]])
    >>> shares(main_plane(principal(states)), states).round(9).tolist()
    [0.8, 0.2]
    """
    whole = float(states.var(0).sum())
    if not plane.axes.any():
        return np.full(2, np.nan)
    lengths = np.maximum(np.linalg.norm(plane.axes, axis=1), 1e-300)
    found: np.ndarray = ((states - plane.mean) @ (plane.axes.T / lengths)).var(0) / whole
    return found


def turned(before: np.ndarray | None, plane: Plane, states: np.ndarray, align: str) -> Plane:
    """The same plane with its axes turned so that the points move least from those before.

    Parameters
    ----------
    before
        ``[n, 2]``: coordinates of the same states at the point before; None for the first.
    align
        ``signs``: an axis is at most reversed, and stays what it is; ``rotation``: both are turned
        within their plane (Schönemann 1966, A generalized solution of the orthogonal Procrustes
        problem).

    Examples
    --------
    >>> plane = Plane(np.zeros(2), -np.eye(2))
    >>> turned(np.eye(2), plane, np.eye(2), "signs")(np.eye(2)).tolist()
    [[1.0, 0.0], [0.0, 1.0]]
    """
    now = plane(states)
    if before is None:  # the point furthest out along an axis lies at its positive end
        furthest = now[np.abs(now).argmax(0), [0, 1]]
        turn = np.diag(np.where(furthest < 0, -1.0, 1.0))
    elif align == "signs":
        turn = np.diag(np.where((before * now).sum(0) < 0, -1.0, 1.0))
    else:
        left, _, right = np.linalg.svd(before.T @ now)
        turn = left @ right
    return replace(plane, axes=turn @ plane.axes)
