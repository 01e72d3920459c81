"""Eigenvalues of weight matrices, and the power laws that fit their tails.

An eigenvalue here is the square of a singular value: one of ``W^T W``, not divided by anything.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import TYPE_CHECKING
from weakref import WeakKeyDictionary

import numpy as np
import torch
from torch import Tensor

if TYPE_CHECKING:
    from layerlens.model.lensmodel import LensModel

MOST_NUMBERS = 4_000_000
"""Numbers held at once, beside the weights."""

WORST_DISTANCE = 0.1
"""Kolmogorov-Smirnov distance above which a fit says nothing."""

SHORTEST_TAIL = 50
"""Fewest eigenvalues that a fit may rest on."""

FEWEST = 10
"""Fewest eigenvalues that are fitted at all."""


def eigenvalues(weight: Tensor) -> np.ndarray:
    """Squares of the singular values of a matrix, ascending.

    From the smaller Gram matrix in float64, summed chunk by chunk. What cannot be told from zero
    there (below ``1e-16`` of the largest for each row or column) is zero.

    Parameters
    ----------
    weight
        ``[out, in]``, any floating dtype.

    Returns
    -------
    ndarray
        ``[min(out, in)]`` float64.

    Examples
    --------
    >>> eigenvalues(torch.diag(torch.tensor([3.0, 1.0, 2.0])))
    array([1., 4., 9.])
    """
    if weight.device.type == "mps":  # has no float64
        weight = weight.cpu()
    tall = weight if weight.shape[0] >= weight.shape[1] else weight.T
    step = max(1, MOST_NUMBERS // tall.shape[1])
    gram = torch.zeros(tall.shape[1], tall.shape[1], dtype=torch.float64, device=tall.device)
    for start in range(0, len(tall), step):
        rows = tall[start : start + step].double()
        gram.addmm_(rows.T, rows)
    return _clean(torch.linalg.eigvalsh(gram).cpu().numpy(), len(tall))


def window_eigenvalues(weight: Tensor, size: int, steps: int, *, cover: bool) -> np.ndarray:
    """Eigenvalues of all square windows of a matrix together, ascending.

    Parameters
    ----------
    size
        Side of a window; the matrix's smaller side where that is less.
    steps
        Windows along each side, spread evenly from one end to the other.
    cover
        More of them along a side that they would not cover.
    """
    if weight.device.type == "mps":
        weight = weight.cpu()
    size = min(size, *weight.shape)
    starts = [_starts(length, size, steps, cover) for length in weight.shape]
    found = []
    chunk = max(1, MOST_NUMBERS // size**2)
    places = [(row, column) for row in starts[0] for column in starts[1]]
    for first in range(0, len(places), chunk):
        windows = torch.stack(
            [weight[r : r + size, c : c + size] for r, c in places[first : first + chunk]]
        ).double()
        values = torch.linalg.eigvalsh(windows.mT @ windows).cpu().numpy()
        found.append(_clean(values, size).ravel())
    return np.sort(np.concatenate(found))


def _starts(length: int, size: int, steps: int, cover: bool) -> list[int]:
    """Where windows begin along a side; those that would be the same once."""
    if cover:
        steps = max(steps, -(-length // size))
    return sorted({round(float(at)) for at in np.linspace(0, length - size, steps)})


def _clean(values: np.ndarray, longer: int) -> np.ndarray:
    """Eigenvalues ``[..., n]`` with those that are rounding made zero."""
    noise = longer * np.finfo(float).eps * values[..., -1:]
    return np.asarray(np.where(values > noise, values, 0.0))


@dataclass(frozen=True)
class PowerLaw:
    """A power law ``p(x) ~ x^-alpha`` fitted to the largest values.

    Attributes
    ----------
    alpha, error
        The exponent, and its standard error ``(alpha - 1) / sqrt(tail)``.
    xmin, tail
        Where the tail begins, and how many values are in it.
    distance
        Kolmogorov-Smirnov distance between tail and law.
    """

    alpha: float
    error: float
    xmin: float
    tail: int
    distance: float

    @property
    def poor(self) -> bool:
        """Whether the exponent says nothing: the law does not fit, or hardly anything is fitted."""
        return not (self.distance <= WORST_DISTANCE and self.tail >= SHORTEST_TAIL)


NO_LAW = PowerLaw(np.nan, np.nan, np.nan, 0, np.nan)


def fit_power_law(values: np.ndarray) -> PowerLaw:
    """Fit a power law by maximum likelihood, from the beginning with the smallest distance.

    ``alpha = 1 + n / sum_j ln(x_j / xmin)`` over the ``n`` values from ``xmin`` on; ``xmin`` is
    the value for which the Kolmogorov-Smirnov distance is smallest (Clauset, Shalizi and Newman
    2009, "Power-law distributions in empirical data"; as in WeightWatcher).

    Parameters
    ----------
    values
        Ascending; zeros are left out.

    Returns
    -------
    PowerLaw
        All NaN where fewer than ten values are left or all are the same.
    """
    x = values[values > 0]
    if len(x) < FEWEST or x[0] == x[-1]:
        return NO_LAW
    logs = np.log(x)
    n = np.arange(len(x), 0, -1)
    sums = logs[::-1].cumsum()[::-1] - n * logs
    starts = np.flatnonzero(sums[:-1] > 0)
    alphas = 1 + n[starts] / sums[starts]
    distances = _distances(logs, starts, alphas)
    best = int(distances.argmin())
    alpha, tail = float(alphas[best]), int(n[starts[best]])
    error = (alpha - 1) / tail**0.5
    return PowerLaw(alpha, error, float(x[starts[best]]), tail, float(distances[best]))


def _distances(logs: np.ndarray, starts: np.ndarray, alphas: np.ndarray) -> np.ndarray:
    """Distance of each tail from its law: max_j |F(x_j) - (values of the tail below x_j) / n|."""
    found = np.empty(len(starts))
    step = max(1, MOST_NUMBERS // len(logs))
    place = np.arange(len(logs))
    for first in range(0, len(starts), step):
        start, alpha = starts[first : first + step, None], alphas[first : first + step, None]
        law = -np.expm1((1 - alpha) * (logs - logs[start]).clip(0))
        off = np.abs(law - (place - start) / (len(logs) - start))
        found[first : first + step] = np.where(place >= start, off, 0).max(1)
    return found


def hill(values: np.ndarray) -> float:
    """Hill's estimate of the exponent from the larger half of all values.

    ``alpha = 1 + n / sum_j ln(x_j / xmin)`` with ``xmin`` the value number ``floor(N / 2)`` from
    below and ``n`` the values from there on; NaN where that is zero, or all are the same.

    Parameters
    ----------
    values
        Ascending.
    """
    tail = values[len(values) // 2 :]
    if tail[0] <= 0 or tail[0] == tail[-1]:
        return float("nan")
    return float(1 + len(tail) / np.log(tail / tail[0]).sum())


_KNOWN: WeakKeyDictionary[LensModel, dict[str, tuple[tuple[float, ...], np.ndarray]]] = (
    WeakKeyDictionary()
)


def known_eigenvalues(model: LensModel, name: str, weight: Tensor) -> np.ndarray:
    """`eigenvalues` of one of a model's matrices, computed again only when it has changed.

    Parameters
    ----------
    name
        Of the matrix in the model.
    """
    mark = tuple(_marks(weight))
    known = _KNOWN.setdefault(model, {})
    if name not in known or known[name][0] != mark:
        known[name] = mark, eigenvalues(weight)
    return known[name][1]


def _marks(weight: Tensor) -> Iterator[float]:
    """Numbers that change when a weight does: its size and three sums."""
    yield from weight.shape
    rows, columns = weight.sum(1, dtype=torch.float32), weight.sum(0, dtype=torch.float32)
    for sums in (rows, columns):
        ramp = torch.arange(1, len(sums) + 1, dtype=torch.float32, device=sums.device)
        yield float(sums @ ramp)
    yield float(torch.linalg.vector_norm(weight, dtype=torch.float32))
