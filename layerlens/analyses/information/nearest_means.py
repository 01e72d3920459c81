"""How well labels are told by the nearest mean, and how well labels that say nothing are."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from layerlens.analyses.information.class_geometry import class_means

TAIL = 0.025
"""Share of the draws on either side that an interval leaves out."""

Sides = tuple[np.ndarray, np.ndarray]
"""Numbers of the states that means are taken of, and of those that are told by them."""


def told(states: np.ndarray, place: np.ndarray, sides: Sides) -> np.ndarray:
    """Which of the states set apart are nearest to the mean of their own label, 1 or 0.

    Parameters
    ----------
    states
        ``[n, d]`` float64.
    place
        ``[n]``: number of the label of each.
    sides
        Which give means, and which are told; a label that gave no mean is told wrong.

    Examples
    --------
    >>> states = np.array([[0.0], [1.0], [0.4], [0.6]])
    >>> told(states, np.array([7, 8, 7, 7]), (np.arange(2), np.arange(2, 4))).tolist()
    [1.0, 0.0]
    """
    known, own = np.unique(place[sides[0]], return_inverse=True)
    means, _ = class_means(states[sides[0]], own)
    centre = means.mean(0)
    means, given = means - centre, states[sides[1]] - centre
    nearest = ((means**2).sum(1) - 2 * given @ means.T).argmin(1)
    right: np.ndarray = known[nearest] == place[sides[1]]
    return right.astype(np.float64)


def dealt(
    place: np.ndarray, unit: np.ndarray, sides: Sides, random: np.random.Generator
) -> np.ndarray:
    """Labels dealt out anew within each side, by units that have one label each.

    Parameters
    ----------
    place
        ``[n]``: number of the label of each.
    unit
        ``[n]``: the text of each, where all states of a text have its label; else each its own.

    Examples
    --------
    >>> sides = np.arange(4), np.arange(4, 6)
    >>> found = dealt(np.array([0, 0, 1, 1, 2, 3]), np.array([0, 0, 1, 1, 2, 3]), sides,
    ...               np.random.default_rng(0))
    >>> bool(found[0] == found[1]), sorted(found[4:].tolist())
    (True, [2, 3])
    """
    made = place.copy()
    for side in sides:
        _, first, own = np.unique(unit[side], return_index=True, return_inverse=True)
        made[side] = random.permutation(place[side][first])[own]
    return made


def between_draws(right: Sequence[np.ndarray]) -> tuple[float, float, float]:
    """The mean share that is told right over draws, and what 95 % of them lie between.

    Examples
    --------
    >>> between_draws([np.array([0.0, 1.0]), np.array([0.0, 1.0])])
    (0.5, 0.5, 0.5)
    """
    means = [float(one.mean()) for one in right]
    low, high = np.quantile(means, [TAIL, 1 - TAIL])
    return float(np.mean(means)), float(low), float(high)
