"""What is said of a probe: how often it is right, between which bounds, and at which depth."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from layerlens.metrics.bootstrap import ends, resamples

RISE, STILL = 1.1, 0.03
"""A layer is a jump where accuracy grows by this factor, and still where it changes by less."""
Z = 1.959964
"""Of a two-sided 95 % interval of a normal distribution."""

Floats = NDArray[np.float64]


def wilson(right: float, total: int) -> tuple[float, float]:
    """Both ends of Wilson's 95 % interval of a share (Wilson 1927).

    Examples
    --------
    >>> [round(end, 3) for end in wilson(8, 10)]
    [0.49, 0.943]
    """
    if not total:
        return float("nan"), float("nan")
    share = right / total
    middle = share + Z**2 / (2 * total)
    reach = Z * np.sqrt(share * (1 - share) / total + Z**2 / (4 * total**2))
    whole = 1 + Z**2 / total
    return float((middle - reach) / whole), float((middle + reach) / whole)


def share_between(right: Floats, unit: NDArray[np.int64]) -> tuple[float, float, float]:
    """A mean over examples and its 95 % interval, by Wilson or, where units hold several, by units.

    Parameters
    ----------
    right
        ``[n]``: 1 where it is right, else 0; or any number whose mean is wanted.
    unit
        ``[n]``: the unit (text or group) that each example is of.
    """
    if len(np.unique(unit)) == len(right) and np.isin(right, (0, 1)).all():
        return (float(right.mean()), *wilson(float(right.sum()), len(right)))
    return mean_between(right, unit)


def mean_between(values: Floats, unit: NDArray[np.int64]) -> tuple[float, float, float]:
    """A mean over examples and its 95 % interval by the bootstrap over units.

    Of the difference of two probes on the same examples it is the paired bootstrap: both are drawn
    together, and what is hard for both says nothing of either.

    Parameters
    ----------
    values, unit
        ``[n]``.

    Examples
    --------
    >>> one, other = np.array([1, 1, 1, 0.0]), np.array([1, 1, 1, 0.0])
    >>> mean_between(one - other, np.arange(4))
    (0.0, 0.0, 0.0)
    """
    units, inverse = np.unique(unit, return_inverse=True)
    sums, counts = np.bincount(inverse, values), np.bincount(inverse)
    drawn = resamples(len(units))
    means = (drawn @ sums / np.maximum(drawn @ counts, 1))[:, None]
    low, high = ends(means, np.array([len(units) > 1]))
    return float(values.mean()), float(low[0]), float(high[0])


def concept_depth(accuracy: Sequence[float]) -> dict[str, float]:
    """Where accuracy jumps and where it stands still, as shares of the depth.

    Jin et al. (2024), Exploring Concept Depth, arXiv 2404.07066: with ``b_i = a_i / a_(i-1)``, the
    jumping point is the first ``i / d`` with ``b_i >= 1.1``, the converging point the last with
    ``|b_i - 1| < 0.03``. That is nearly always the last layer (``literal``), so beside it
    stands the first from which on all later ones are so. NaN where there is none.

    Parameters
    ----------
    accuracy
        After each block.

    Examples
    --------
    >>> found = concept_depth([0.5, 0.6, 0.7, 0.72, 0.725, 0.727])
    >>> {name: round(value, 3) for name, value in found.items()}
    {'jumping_point': 0.167, 'converging_point': 0.5, 'converging_point_literal': 0.833}
    """
    values = np.asarray(accuracy, dtype=np.float64)
    depth = len(values)
    ratio = values[1:] / np.maximum(values[:-1], 1e-12)
    still = np.abs(ratio - 1) < STILL
    jumps = np.flatnonzero(ratio >= RISE) + 1
    moving = np.flatnonzero(~still)
    settled = 1 if not len(moving) else int(moving[-1]) + 2
    last = np.flatnonzero(still) + 1
    return {
        "jumping_point": float(jumps[0] / depth) if len(jumps) else float("nan"),
        "converging_point": settled / depth if settled < depth else float("nan"),
        "converging_point_literal": float(last[-1] / depth) if len(last) else float("nan"),
    }


def chosen_elsewhere(
    right: Floats, fold: NDArray[np.int64], elsewhere: Floats
) -> tuple[Floats, list[int]]:
    """Let each fold be answered by the point that did best where that fold was not looked at.

    So the point is not chosen by the examples that it is judged on, and what the best point
    reaches is not the largest of many noisy numbers.

    Parameters
    ----------
    right
        ``[point, n]``: 1 where the probe of a point, which was not fitted on it, is right.
    fold
        ``[n]``.
    elsewhere
        ``[point, fold]``: how well a point does on examples of another fold, by probes that saw
        neither these nor the fold itself.

    Returns
    -------
    right, points
        ``[n]``, and the point that was chosen for each fold.
    """
    answered = np.zeros(right.shape[1])
    chosen = []
    for number in np.unique(fold):
        here = fold == number
        best = int(elsewhere[:, number].argmax())
        answered[here] = right[best, here]
        chosen.append(best)
    return answered, chosen
