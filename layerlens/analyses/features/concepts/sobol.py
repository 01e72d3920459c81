"""Total Sobol indices: how much of a number's variance goes when one input is held."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
from scipy.stats import qmc


def designs(number: int, inputs: int, seed: int) -> tuple[np.ndarray, np.ndarray]:
    """Two independent designs of inputs from 0 to 1, of a scrambled Halton sequence.

    Returns
    -------
    tuple of ndarray
        ``[number, inputs]`` each.
    """
    drawn = qmc.Halton(2 * inputs, scramble=True, seed=seed).random(number)
    return drawn[:, :inputs], drawn[:, inputs:]


def with_one_other(a: np.ndarray, b: np.ndarray) -> Iterator[np.ndarray]:
    """The first design with one input after the other from the second: ``[number, inputs]``."""
    for one in range(a.shape[1]):
        mixed = a.copy()
        mixed[:, one] = b[:, one]
        yield mixed


def totals(first: np.ndarray, others: np.ndarray) -> np.ndarray:
    """Total indices by Jansen's estimator.

    Parameters
    ----------
    first
        ``[number]``: what the first design gives.
    others
        ``[input, number]``: what it gives with each input from the second design.

    Returns
    -------
    ndarray
        ``[input]``; exactly 0 for an input that changes nothing, NaN where nothing else varies.

    Notes
    -----
    Jansen (1999), Analysis of Variance Designs for Model Output:
    ``S_T = sum (y_A - y_C)^2 / (2 n Var y_A)``.

    Examples
    --------
    >>> import numpy as np
    >>> a, b = designs(4096, 2, seed=0)
    >>> product = [one.prod(1) for one in (a, *with_one_other(a, b))]
    >>> totals(product[0], np.stack(product[1:])).round(2).tolist()  # 4/7 each
    [0.57, 0.57]
    """
    moved = np.square(others - first).sum(1)
    spread = 2 * len(first) * first.var(ddof=1)
    with np.errstate(divide="ignore", invalid="ignore"):
        found: np.ndarray = np.where(moved == 0, 0.0, moved / spread)
    found[np.isinf(found)] = np.nan
    return found
