"""How many bits each layer gets, so that the whole loses least within a budget."""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np

UNITS = 200_000
"""Into how many units a budget is divided at most; sizes are rounded up to whole units, so that a
budget is never exceeded."""


def allocate(
    losses: np.ndarray, sizes: Sequence[int], bits: Sequence[int], average: float
) -> list[int]:
    """The choice that loses least in sum within a mean number of bits, by dynamic programming.

    Parameters
    ----------
    losses
        ``[layer, bits]``, what is lost by each layer alone with each number of bits.
    sizes
        Weights of each layer.
    bits
        The numbers of bits.
    average
        Bits a weight, at most, of all layers together; not below the smallest of ``bits``.

    Returns
    -------
    list of int
        For each layer the index of its number of bits; of equal choices the one with fewer bits.

    Examples
    --------
    >>> losses = np.array([[4.0, 1.0], [2.0, 1.5]])
    >>> allocate(losses, [10, 10], [2, 4], 3.0)
    [1, 0]
    """
    order = np.argsort(bits, kind="stable")
    known = [size for size in sizes if size]
    unit = max(math.gcd(*known) if known else 1, math.ceil(average * sum(sizes) / UNITS), 1)
    # The least bits always fit; what a layer takes beyond them is paid for.
    least = min(bits)
    room = int((average - least) * sum(sizes) / unit + 1e-9)
    best = np.zeros(room + 1)
    picks: list[np.ndarray] = []
    for lost, size in zip(losses, sizes, strict=True):
        found = np.full(room + 1, np.inf)
        pick = np.zeros(room + 1, dtype=np.int64)
        for column in order:
            cost = math.ceil((bits[column] - least) * size / unit)
            if cost > room:
                continue
            here = np.full(room + 1, np.inf)
            here[cost:] = best[: room + 1 - cost] + lost[column]
            better = here < found
            found[better], pick[better] = here[better], column
        best, picks = found, [*picks, pick]
    chosen, left = [], room
    for pick, size in zip(reversed(picks), reversed(list(sizes)), strict=True):
        column = int(pick[left])
        chosen.append(column)
        left -= math.ceil((bits[column] - least) * size / unit)
    return chosen[::-1]
