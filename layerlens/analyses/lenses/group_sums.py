"""Sums over the tokens of each group of texts: means and correlations, with their intervals."""

from __future__ import annotations

import warnings
from typing import Any

import numpy as np

from layerlens.metrics.base import Arrays
from layerlens.metrics.batch import GROUPS
from layerlens.metrics.means import Statistic, bootstrap, ratio

Found = tuple[np.ndarray, np.ndarray, np.ndarray]
"""A number for each cell, and the lower and the upper end of its interval over texts."""


def pearson(totals: Arrays) -> np.ndarray:
    """Pearson's correlation of ``x`` and ``y`` from their sums; NaN where one is constant.

    A variance that is nothing but the rounding of its sums counts as none.
    """
    with np.errstate(divide="ignore", invalid="ignore"):
        n = totals["count"]
        over = totals["xx"] - totals["x"] ** 2 / n, totals["yy"] - totals["y"] ** 2 / n
        both = totals["xy"] - totals["x"] * totals["y"] / n
        for own, square in zip(over, (totals["xx"], totals["yy"]), strict=True):
            both = np.where(own > 1e-12 * square, both, np.nan)
        return np.asarray(np.clip(both / np.sqrt(over[0] * over[1]), -1, 1))


class GroupSums:
    """What adds up over tokens, kept apart by the group of their text.

    Parameters
    ----------
    cells
        How many numbers are kept, such as one for each context and point.
    names
        What is summed beside ``count``.
    """

    def __init__(self, cells: tuple[int, ...], names: tuple[str, ...]) -> None:
        self._arrays = {name: np.zeros((GROUPS, *cells)) for name in ("count", *names)}

    def add(self, cell: tuple[int, ...], text: np.ndarray, **values: np.ndarray) -> None:
        """Take in one number of each name for each of some tokens, ``[n]``."""
        group = text % GROUPS
        at: tuple[Any, ...] = (slice(None), *cell)
        self._arrays["count"][at] += np.bincount(group, minlength=GROUPS)
        for name, array in values.items():
            self._arrays[name][at] += np.bincount(group, array, GROUPS)

    def found(self, statistic: Statistic) -> Found:
        """A statistic of the sums over all texts, and its interval."""
        totals = {name: array.sum(0) for name, array in self._arrays.items()}
        with warnings.catch_warnings():  # a correlation that no draw has is NaN, which says it
            warnings.filterwarnings("ignore", "All-NaN", RuntimeWarning)
            return statistic(totals), *bootstrap(statistic, self._arrays)


class Means(GroupSums):
    """Means over tokens."""

    def __init__(self, *cells: int) -> None:
        super().__init__(cells, ("sum",))

    def take(self, cell: tuple[int, ...], text: np.ndarray, values: np.ndarray) -> None:
        """Take in one number for each token."""
        self.add(cell, text, sum=values)

    def value(self) -> Found:
        """The means and their intervals."""
        return self.found(ratio)


class Correlations(GroupSums):
    """Pearson's correlations over tokens."""

    def __init__(self, *cells: int) -> None:
        super().__init__(cells, ("x", "y", "xx", "yy", "xy"))

    def take(self, cell: tuple[int, ...], text: np.ndarray, x: np.ndarray, y: np.ndarray) -> None:
        """Take in a pair of numbers for each token."""
        self.add(cell, text, x=x, y=y, xx=x * x, yy=y * y, xy=x * y)

    def value(self) -> Found:
        """The correlations and their intervals."""
        return self.found(pearson)
