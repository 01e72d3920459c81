"""How well one of two sets of states finds its partner in the other by cosine."""

from __future__ import annotations

from typing import NamedTuple

import numpy as np

ROWS = 512
"""Cosines of so many states with all others are held at once."""
TIE = 1e-6
"""Cosines of float32 states that are nearer to each other than this are equal."""


class Found(NamedTuple):
    """What each of ``n`` pairs has, ``[n]`` float64.

    Attributes
    ----------
    there, back
        1 where the partner is the nearest of the other set, 1 over their number where several are
        as near, else 0; from the first set to the second, and from the second to the first.
    gap
        Cosine with the partner, minus the mean with all others, both ways.
    """

    there: np.ndarray
    back: np.ndarray
    gap: np.ndarray


def unit_rows(states: np.ndarray, *, centre: bool) -> np.ndarray:
    """``[n, d]`` float64 of length 1, without the mean of all where `centre`; zeros stay zeros."""
    wide = states.astype(np.float64)
    wide = wide - wide.mean(0) if centre else wide
    unit: np.ndarray = wide / np.maximum(np.linalg.norm(wide, axis=1, keepdims=True), 1e-30)
    return unit


def partners(first: np.ndarray, second: np.ndarray, *, centre: bool) -> Found:
    """Let each state of a set find the one with the largest cosine in the other.

    Parameters
    ----------
    first, second
        ``[n, d]``: row by row they belong together; ``n`` of at least 2.
    centre
        Whether each set's mean is subtracted from it before.

    Examples
    --------
    >>> states = np.random.default_rng(0).normal(size=(5, 3))
    >>> found = partners(states, states + 10, centre=True)
    >>> float(found.there.mean()), float(found.back.mean())
    (1.0, 1.0)
    """
    a, b = (unit_rows(states, centre=centre) for states in (first, second))
    own = (a * b).sum(1)
    others = ((a @ b.sum(0) + b @ a.sum(0)) / 2 - own) / (len(a) - 1)
    return Found(_nearest(a, b), _nearest(b, a), own - others)


def _nearest(one: np.ndarray, other: np.ndarray) -> np.ndarray:
    found = np.empty(len(one))
    for start in range(0, len(one), ROWS):
        cosines = one[start : start + ROWS] @ other.T
        best = cosines >= cosines.max(1, keepdims=True) - TIE
        rows = np.arange(len(cosines))
        found[start : start + ROWS] = best[rows, start + rows] / best.sum(1)
    return found
