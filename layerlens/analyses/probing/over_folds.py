"""A number of each fold, and between which bounds its mean over folds lies."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray
from scipy.stats import t as student


def over_folds(
    found: NDArray[np.float64], fold: NDArray[np.int64]
) -> tuple[NDArray[np.float64], NDArray[np.float64], NDArray[np.float64]]:
    """Mean over folds and both ends of its 95 % interval.

    Folds share most of what they learn from, so that they differ less than new data would make
    them; the variance is widened for that by Nadeau and Bengio (2003), Inference for the
    Generalization Error: ``(1 / k + n_test / n_train) s^2``, with Student's t of ``k - 1``.

    Parameters
    ----------
    found
        ``[fold, ...]``.
    fold
        ``[n]``: the fold that each example is judged in.

    Examples
    --------
    >>> mean, low, high = over_folds(np.array([1.0, 2.0, 3.0]), np.array([0, 1, 2]))
    >>> [round(float(one), 3) for one in (mean, low, high)]
    [2.0, -1.928, 5.928]
    """
    count = len(found)
    judged = np.bincount(fold).mean()
    wider = 1 / count + judged / (len(fold) - judged)
    reach = student.ppf(0.975, count - 1) * np.sqrt(wider * found.var(0, ddof=1))
    mean = found.mean(0)
    return mean, mean - reach, mean + reach
