"""Groups of vectors by k-means: how many, how clear, and whether another start gives the same."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from functools import cached_property

import numpy as np
from scipy.spatial.distance import cdist
from sklearn.cluster import KMeans
from sklearn.metrics import adjusted_rand_score

from layerlens.analyses.attention.clustering import silhouettes
from layerlens.analyses.features.facets.contexts import Context

STARTS = 10
"""Times that k-means begins anew; the tightest groups count."""


@dataclass(frozen=True, eq=False)
class Vectors:
    """Vectors of length 1, in as few entries as hold them.

    Attributes
    ----------
    values
        ``[n, width]`` float64.
    """

    values: np.ndarray

    @classmethod
    def of(cls, contexts: Sequence[Context]) -> Vectors:
        """The directions of the states of some places, in their principal components.

        As many components as there are vectors hold them exactly, so that no distance changes.
        """
        states = np.stack([one.state.double().numpy() for one in contexts])
        states /= np.linalg.norm(states, axis=1, keepdims=True).clip(1e-12)
        left, sizes, _ = np.linalg.svd(states - states.mean(0), full_matrices=False)
        return cls(left * sizes)

    def one_cloud(self, seed: int) -> Vectors:
        """As many vectors of one Gaussian that is as wide in every direction: without groups.

        The null of Liu, Hayes, Nobel and Marron (2008), Statistical Significance of Clustering for
        High-Dimension, Low-Sample Size Data.
        """
        drawn = np.random.default_rng(seed).standard_normal(self.values.shape)
        return Vectors(drawn * self.values.std(0))

    @cached_property
    def distances(self) -> np.ndarray:
        """``[n, n]``."""
        found: np.ndarray = cdist(self.values, self.values)
        return found

    @cached_property
    def different(self) -> int:
        """How many of them are different."""
        return len(np.unique(self.values.round(6), axis=0))

    def numbers(self, most: int) -> range:
        """Numbers of groups that can be tried, from 2 on."""
        return range(2, min(most, len(self.values) - 1, self.different) + 1)

    def groups(self, number: int, seed: int) -> np.ndarray:
        """Labels ``[n]`` from 0, of the largest group first."""
        return by_size(KMeans(number, n_init=STARTS, random_state=seed).fit_predict(self.values))

    def silhouettes(self, labels: np.ndarray) -> np.ndarray:
        """How much nearer each is to its own group than to the next one: ``[n]``, -1 to 1."""
        return silhouettes(self.distances, labels)

    def tried(
        self, most: int, seed: int, tick: Callable[[], None]
    ) -> Iterator[tuple[int, np.ndarray, float]]:
        """Each number of groups with its labels and their mean silhouette."""
        for number in self.numbers(most):
            tick()
            labels = self.groups(number, seed)
            yield number, labels, float(self.silhouettes(labels).mean())

    def nearest(self, labels: np.ndarray, group: int) -> list[int]:
        """The members of a group, those nearest to its centre first."""
        members = np.flatnonzero(labels == group)
        centre = self.values[members].mean(0, keepdims=True)
        order = cdist(self.values[members], centre)[:, 0].argsort(kind="stable")
        return [int(one) for one in members[order]]

    def other_starts(self, labels: np.ndarray, seeds: Sequence[int]) -> float:
        """Mean adjusted Rand index of some groups with those of other seeds; 1 for the same."""
        number = int(labels.max()) + 1
        return float(
            np.mean([adjusted_rand_score(labels, self.groups(number, one)) for one in seeds])
        )

    def other_halves(self, labels: np.ndarray, seeds: Sequence[int]) -> float:
        """The same with groups that were found in half of the vectors, and hold for the others."""
        number, found = int(labels.max()) + 1, []
        for seed in seeds:
            order = np.random.default_rng(seed).permutation(len(labels))
            half, rest = np.array_split(order, 2)
            if Vectors(self.values[half]).different < number:
                continue
            groups = KMeans(number, n_init=STARTS, random_state=seed).fit(self.values[half])
            found.append(adjusted_rand_score(labels[rest], groups.predict(self.values[rest])))
        return float(np.mean(found)) if found else float("nan")


def by_size(labels: np.ndarray) -> np.ndarray:
    """The same groups, the largest called 0; of equal ones the one that comes first.

    Examples
    --------
    >>> import numpy as np
    >>> by_size(np.array([3, 1, 1, 2])).tolist()
    [1, 0, 0, 2]
    """
    names, first, inverse, counts = np.unique(
        labels, return_index=True, return_inverse=True, return_counts=True
    )
    order = np.lexsort((first, -counts))
    rank = np.empty(len(names), dtype=int)
    rank[order] = np.arange(len(names))
    found: np.ndarray = rank[inverse]
    return found
