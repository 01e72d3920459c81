"""How a number of each text goes with what the user says of the texts: a number, or a word."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np

from layerlens.analyses.sweeps.intervals import mean_interval
from layerlens.errors import InputError
from layerlens.metrics.bootstrap import DRAWS, ends, resamples

CHANCE = 95
"""Percentile of the sizes of correlations with shuffled labels that chance is said to reach."""


class Difficulty:
    """The labels of texts.

    Parameters
    ----------
    labels
        One for each text: numbers, or anything else, whose texts then are groups without order.

    Attributes
    ----------
    values
        ``[text]`` float64: the numbers, or those of the groups.
    groups
        Each label once, numbers in their order, others as they come.
    ordered
        Whether the labels are numbers.
    """

    def __init__(self, labels: Sequence[Any]) -> None:
        plain = [label.item() if hasattr(label, "item") else label for label in labels]
        self.ordered = all(isinstance(label, int | float) for label in plain)
        if self.ordered and not np.isfinite(plain).all():
            raise InputError(
                "A label is NaN or infinite: give each text a finite number, or a word."
            )
        self.groups = sorted(set(plain)) if self.ordered else list(dict.fromkeys(map(str, plain)))
        named = plain if self.ordered else list(map(str, plain))
        self.place = np.array([self.groups.index(label) for label in named])
        self.values = np.array(plain if self.ordered else self.place, dtype=np.float64)

    def correlation(self, numbers: np.ndarray, weights: np.ndarray) -> np.ndarray:
        """Pearson's r with numbers, the correlation ratio with groups; NaN where one is constant.

        Parameters
        ----------
        numbers
            ``[text]``, or ``[draw, text]``.
        weights
            ``[draw, text]``, how often each text counts.

        Returns
        -------
        ndarray
            ``[draw]`` float64.
        """
        total = weights.sum(-1, keepdims=True)
        off = numbers - (weights * numbers).sum(-1, keepdims=True) / total
        with np.errstate(divide="ignore", invalid="ignore"):
            if self.ordered:
                way = self.values - (weights * self.values).sum(-1, keepdims=True) / total
                size = np.sqrt((weights * off**2).sum(-1) * (weights * way**2).sum(-1))
                found = (weights * off * way).sum(-1) / np.where(size > 1e-12, size, np.nan)
            else:
                member = np.eye(len(self.groups))[self.place]
                sums, counts = (weights * off) @ member, weights @ member
                between = np.where(counts > 0, sums**2 / counts, 0.0).sum(-1)
                all_ = (weights * off**2).sum(-1)
                found = np.sqrt(between / np.where(all_ > 1e-12, all_, np.nan))
        return np.asarray(found)

    def against(self, numbers: np.ndarray, seed: int) -> dict[str, np.ndarray]:
        """The correlation with ``[text]`` numbers, its interval over texts, and chance.

        Chance is what 95 % of correlations with shuffled labels stay below in size.
        """
        count = len(numbers)
        once = self.correlation(numbers, np.ones((1, count)))[0]
        drawn = self.correlation(numbers, resamples(count, seed))[:, None]
        low, high = ends(drawn, np.array([count > 2 and bool(np.isfinite(drawn).any())]))
        random = np.random.default_rng((seed, 1))
        mixed = np.stack([random.permutation(numbers) for _ in range(DRAWS)])
        sizes = np.abs(self.correlation(mixed, np.ones((DRAWS, count))))
        chance = np.nan if np.isnan(sizes).all() else np.nanpercentile(sizes, CHANCE)
        return {
            "correlation": np.array(once),
            "correlation_low": low[0],
            "correlation_high": high[0],
            "correlation_chance": np.array(chance),
        }

    def slope(self, numbers: np.ndarray) -> float:
        """Of the line through numbers by labels; NaN for groups and constant labels."""
        way = self.values - self.values.mean()
        if not self.ordered or not way.any():
            return float("nan")
        return float(way @ numbers / (way @ way))

    def means(self, numbers: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """Mean of the numbers of each group with its interval over texts, ``[group]`` each."""
        member = np.eye(len(self.groups), dtype=bool)[self.place]
        return mean_interval(np.where(member, numbers[:, None], np.nan))
