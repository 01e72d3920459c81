"""Gaussians of which the mutual information is known: what an estimator makes of them."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
from scipy.optimize import brentq
from scipy.stats import norm

from layerlens.analyses.information.estimators import Bins, Kernels, Neighbours, binned

SHARES = (0.0, 0.25, 0.5, 0.75, 1.0, 1.5)
"""What is to be estimated, in units of ln n."""
_FEWEST, _MOST = 1e-3, 1e9  # standard deviations, in bins


def binned_entropy(deviation: float) -> float:
    """Entropy in nats of a normal number in bins of width 1, one of them around its mean.

    Examples
    --------
    >>> round(binned_entropy(100.0), 4), round(float(np.log(100 * np.sqrt(2 * np.pi * np.e))), 4)
    (6.0241, 6.0241)
    """
    reach = max(2, int(np.ceil(9 * deviation)))
    if reach > 10_000:  # so fine that a bin is a point of the density
        return float(np.log(deviation * np.sqrt(2 * np.pi * np.e)))
    share = np.diff(norm.cdf((np.arange(-reach, reach + 2) - 0.5) / deviation))
    share = share[share > 0]
    return float(-(share * np.log(share)).sum())


def estimated(
    estimator: Bins | Kernels | Neighbours,
    truth: float,
    n: int,
    width: int,
    seed: int,
) -> float:
    """What an estimator finds in ``n`` draws of Gaussians that share ``truth`` nats.

    Of bins and kernels they are ``width`` independent normal numbers of one deviation, chosen so
    that their bins have that entropy, or that with the noise of the kernels they hold as much of
    themselves: ``width / 2 ln(1 + s^2 / v)``. Of neighbours they are pairs with a correlation,
    ``-m / 2 ln(1 - r^2)``, as many as both parts have entries; what is left over is noise.

    Parameters
    ----------
    estimator
        Whose sizes these are: bins, variance of the noise, inputs.
    truth
        Nats, not negative.
    n, width
        States and their entries.
    seed
        Of the draws.
    """
    random = np.random.default_rng((seed, width))
    labels = np.zeros((0, n), dtype=int)
    drawn = random.standard_normal((n, width))
    if isinstance(estimator, Bins):
        return binned(np.floor(_deviation(truth / width) * drawn + 0.5), labels).inputs
    if isinstance(estimator, Kernels):
        size = np.sqrt(estimator.variance * np.expm1(2 * truth / width))
        return estimator.of(size * drawn, labels).inputs
    other = random.standard_normal((n, estimator.inputs.shape[1]))
    pairs = min(width, other.shape[1])
    along = np.sqrt(-np.expm1(-2 * truth / pairs))
    drawn[:, :pairs] = along * other[:, :pairs] + np.sqrt(1 - along**2) * drawn[:, :pairs]
    same = Neighbours(other, estimator.count, estimator.seed, estimator.tick)
    return same.of(drawn, labels).inputs


def _deviation(truth: float) -> float:
    """The deviation in bins of a normal number whose bin has this entropy."""
    if truth <= binned_entropy(_FEWEST):
        return 0.0
    off: Callable[[float], float] = lambda power: binned_entropy(float(np.exp(power))) - truth  # noqa: E731
    return float(np.exp(brentq(off, np.log(_FEWEST), np.log(_MOST))))
