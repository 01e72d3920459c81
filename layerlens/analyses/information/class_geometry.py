"""How tightly and how evenly states gather by class: the numbers of neural collapse."""

from __future__ import annotations

from typing import NamedTuple

import numpy as np

SMALLEST = 1e-10
"""Directions of the class means whose singular value is less than this share of the largest are
none: means lie in fewer dimensions than classes less one when some of them coincide."""
ROUNDING = 1e-12
"""Share of the largest squared distance from the centre below which two squared distances tie."""


class Geometry(NamedTuple):
    """What one set of states says of its classes.

    Attributes
    ----------
    nc1
        Scatter within classes in units of the scatter between them, NaN where means coincide.
    equinorm
        Spread of the lengths of the centred class means, as a share of their mean.
    equiangle
        Mean distance of the cosines between them from ``-1 / (C - 1)``.
    error
        Share of the states that do not lie nearer to the mean of the other states of their class
        than to any other class's, NaN where all means coincide.
    """

    nc1: float
    equinorm: float
    equiangle: float
    error: float


def class_means(states: np.ndarray, place: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Means ``[class, d]`` and sizes ``[class]`` of the classes ``place [n]`` of ``states [n, d]``.

    Examples
    --------
    >>> means, sizes = class_means(np.array([[0.0], [2.0], [5.0]]), np.array([0, 0, 1]))
    >>> means.tolist(), sizes.tolist()
    ([[1.0], [5.0]], [2.0, 1.0])
    """
    member = np.equal.outer(np.arange(place.max() + 1), place).astype(np.float64)
    sizes = member.sum(1)
    return member @ states / sizes[:, None], sizes


def geometry(states: np.ndarray, place: np.ndarray, *, averaged: bool = True) -> Geometry:
    """Measure neural collapse of some states.

    With class means ``m_c``, their mean ``m``, ``S_W = mean (h - m_c)(h - m_c)'`` over states and
    ``S_B = mean (m_c - m)(m_c - m)'`` over the ``C`` classes, NC1 is ``tr(S_W pinv(S_B)) / C``;
    the inverse is that of the ``C - 1`` directions of the means.

    Parameters
    ----------
    states
        ``[n, d]`` float64.
    place
        ``[n]``: number of each one's class, each of which occurs at least twice.
    averaged
        Whether NC1 is divided by the number of classes.

    References
    ----------
    Papyan, Han and Donoho (2020), Prevalence of Neural Collapse during the terminal phase of deep
    learning training, arXiv 2008.08186.

    Examples
    --------
    The corners of a simplex, each twice, have collapsed.

    >>> found = geometry(np.repeat(np.eye(3), 2, axis=0), np.repeat(np.arange(3), 2))
    >>> [round(value, 9) for value in found]
    [0.0, 0.0, 0.0, 0.0]
    """
    means, sizes = class_means(states, place)
    classes = len(means)
    centred = means - means.mean(0)
    singular, directions = np.linalg.svd(centred / np.sqrt(classes), full_matrices=False)[1:]
    singular, directions = singular[: classes - 1], directions[: classes - 1]
    used = singular > SMALLEST * max(float(singular[0]), float(np.abs(means).max()))
    nc1 = error = float("nan")
    if used.any():
        scaled = (states - means[place]) @ (directions[used].T / singular[used])
        nc1 = float((scaled**2).sum(1).mean()) / (classes if averaged else 1)
        error = _error(states, place, means, sizes)
    return Geometry(nc1, *simplex(centred), error)


def simplex(centred: np.ndarray) -> tuple[float, float]:
    """How far centred rows ``[class, d]`` are from equal lengths, and from a simplex's angles."""
    classes = len(centred)
    lengths = np.linalg.norm(centred, axis=1)
    with np.errstate(divide="ignore", invalid="ignore"):
        unit = centred / lengths[:, None]
        equinorm = float(lengths.std() / lengths.mean())
    cosines = (unit @ unit.T)[~np.eye(classes, dtype=bool)]
    return equinorm, float(np.abs(cosines + 1 / (classes - 1)).mean())


def _error(states: np.ndarray, place: np.ndarray, means: np.ndarray, sizes: np.ndarray) -> float:
    """Share of states not nearest to their class, of whose mean each is left out; ties count."""
    origin = means.mean(0)
    moved, centred = states - origin, means - origin
    squares = (moved**2).sum(1)[:, None] + (centred**2).sum(1) - 2 * moved @ centred.T
    own = np.arange(len(states)), place
    # A mean without one of its n states lies n / (n - 1) times as far from that state.
    left_out = ((states - means[place]) ** 2).sum(1) * (sizes / (sizes - 1))[place] ** 2
    squares[own] = np.inf
    rounding = ROUNDING * float((moved**2).sum(1).max())
    return float((squares.min(1) <= left_out + rounding).mean())
