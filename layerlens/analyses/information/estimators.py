"""Mutual information of states with inputs and with labels, by bins, by kernels, by neighbours.

All are in nats, take states ``[n, d]`` float64, one for each of ``n`` inputs that are equally
likely, and labels as rows ``[draw, n]`` of numbers from 0, so that shuffled ones cost little.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from typing import Protocol

import numpy as np
from scipy.spatial.distance import cdist
from scipy.special import digamma

from layerlens.errors import InputError

ROWS = 256
"""States whose distances from all others are held at once."""
JITTER = 1e-10
"""Noise in units of the spread, without which equal states have no neighbour at a distance."""


def nothing() -> None:
    """Stands where nobody wants to stop."""


@dataclass(frozen=True)
class Found:
    """What was estimated of one set of states, nats.

    Attributes
    ----------
    inputs
        I(X;T).
    labels
        ``[draw]`` I(T;Y).
    inputs_lower, labels_lower
        Of the same, the lower one of two bounds; None where there is one estimate.
    """

    inputs: float
    labels: np.ndarray
    inputs_lower: float | None = None
    labels_lower: np.ndarray | None = None


class Estimator(Protocol):
    """One way to estimate."""

    def of(self, states: np.ndarray, labels: np.ndarray) -> Found:
        """Estimate from states ``[n, d]`` and labels ``[draw, n]``."""


def entropy(numbers: np.ndarray) -> float:
    """Entropy in nats of how often each number occurs, by its shares.

    Examples
    --------
    >>> round(entropy(np.array([0, 0, 7, 7])), 6), round(float(np.log(2)), 6)
    (0.693147, 0.693147)
    """
    counts = np.unique(numbers, return_counts=True)[1]
    share = counts / counts.sum()
    return float(-(share * np.log(share)).sum())


@dataclass(frozen=True)
class Bins:
    """Every entry of a state in one of equal bins, and a state the row of these.

    A network without noise has ``I(X;T) = H(T)`` then, and ``I(T;Y) = H(T) - H(T|Y)``.

    Shwartz-Ziv and Tishby (2017), Opening the Black Box of Deep Neural Networks via Information,
    arXiv 1703.00810.

    Attributes
    ----------
    count
        Bins of each entry.
    span
        From where to where they reach; None: over what a layer's states have.

    Examples
    --------
    >>> found = Bins(2).of(np.array([[0.0], [0.1], [0.9], [1.0]]), np.array([[0, 0, 1, 1]]))
    >>> round(found.inputs, 3), found.labels.round(3).tolist()
    (0.693, [0.693])
    """

    count: int = 30
    span: tuple[float, float] | None = None

    def of(self, states: np.ndarray, labels: np.ndarray) -> Found:
        """Estimate from states and labels; see `Estimator`.

        Raises
        ------
        InputError
            A state lies outside of the span.
        """
        low, high = self.span or (float(states.min()), float(states.max()))
        if states.min() < low or states.max() > high:
            raise InputError(
                f"States reach from {states.min():.4g} to {states.max():.4g}, and span is from "
                f"{low:g} to {high:g}: give one that holds them, or none."
            )
        width = (high - low) / self.count
        rows = np.floor((states - low) / width) if width > 0 else np.zeros_like(states)
        return binned(np.minimum(rows, self.count - 1), labels)


def binned(rows: np.ndarray, labels: np.ndarray) -> Found:
    """Estimate from states that are rows ``[n, d]`` of bins."""
    _, number = np.unique(rows.astype(np.int64), axis=0, return_inverse=True)
    number = number.ravel()
    whole = entropy(number)
    within = []
    for label in labels:
        both = number * (label.max() + 1) + label
        within.append(entropy(both) - entropy(label))  # H(T, Y) - H(Y)
    return Found(whole, whole - np.array(within))


@dataclass(frozen=True)
class Kernels:
    """States blurred by normal noise: bounds from all distances between them.

    Kolchinsky and Tracey (2017), Estimating Mixture Entropy with Pairwise Distances, arXiv
    1706.02419. With noise of variance ``v``, ``I(X;T)`` is at most ``- mean_i log mean_j exp(-
    |t_i - t_j|^2 / 2v)`` and at least the same with ``8v`` for ``2v``. What labels share with the
    states is the difference of two such bounds, which is itself none.

    Attributes
    ----------
    variance
        Of the noise, in the squared unit of the states.
    tick
        Called now and then; may raise to stop.

    Examples
    --------
    Two points that are far apart for the noise, and one that is twice there.

    >>> kernels = Kernels(0.01)
    >>> found = kernels.of(np.array([[0.0], [9.0]]), np.array([[0, 1]]))
    >>> round(found.inputs, 3), kernels.of(np.ones((2, 1)), np.array([[0, 1]])).inputs
    (0.693, 0.0)
    """

    variance: float = 0.1
    tick: Callable[[], None] = field(default=nothing, repr=False)

    def of(self, states: np.ndarray, labels: np.ndarray) -> Found:
        """Estimate from states and labels; see `Estimator`."""
        upper = self._bound(states, labels, 2 * self.variance)
        lower = self._bound(states, labels, 8 * self.variance)
        return Found(*upper, *lower)

    def _bound(
        self, states: np.ndarray, labels: np.ndarray, scale: float
    ) -> tuple[float, np.ndarray]:
        sizes = [np.bincount(label) for label in labels]
        first = np.cumsum([0, *map(len, sizes)])
        own = labels + first[:-1, None]  # the column of each one's label, of all draws
        member = np.zeros((len(states), first[-1]))
        for columns in own:
            member[np.arange(len(states)), columns] = 1
        size = member.sum(0)[own]
        every, within = 0.0, np.zeros(len(labels))
        for start, near in _distances(states, "sqeuclidean", self.tick):
            kernel = np.exp(-near / scale)
            here = slice(start, start + len(near))
            every += float(np.log(kernel.mean(1)).sum())
            sums = kernel @ member
            mine = np.take_along_axis(sums, own[:, here].T, axis=1)
            within += np.log(mine / size[:, here].T).sum(0)
        count = len(states)
        # A mean of ones need not be one to the last bit.
        return max(0.0, -every / count), (within - every) / count


@dataclass(frozen=True)
class Neighbours:
    """Distances from the k-th nearest other state, against how many lie as near in each part.

    Kraskov, Stögbauer and Grassberger (2004), Estimating mutual information, arXiv
    cond-mat/0305641 (their first estimator, in the largest difference of an entry); for labels
    Ross (2014), Mutual Information between Discrete and Continuous Data Sets. A label that a
    single state has is left out.

    Attributes
    ----------
    inputs
        ``[n, d]`` float64: the other part.
    count
        k.
    seed
        Of noise far below the spread, so that equal states have an order.
    tick
        Called now and then; may raise to stop.
    """

    inputs: np.ndarray
    count: int = 3
    seed: int = 0
    tick: Callable[[], None] = field(default=nothing, repr=False)

    def of(self, states: np.ndarray, labels: np.ndarray) -> Found:
        """Estimate from states and labels; see `Estimator`."""
        random = np.random.default_rng(self.seed)
        own, other = _scaled(states, random), _scaled(self.inputs, random)
        number = len(own)
        total, ross = 0.0, np.zeros(len(labels))
        counts = [np.bincount(label) for label in labels]
        parts = zip(_distances(own, "chebyshev", self.tick),
                    _distances(other, "chebyshev", self.tick), strict=True)  # fmt: skip
        for (start, near), (_, far) in parts:
            at = np.arange(len(near))
            near[at, start + at] = far[at, start + at] = np.inf
            reach = np.partition(np.maximum(near, far), self.count - 1, 1)[:, self.count - 1]
            within = [(each < reach[:, None]).sum(1) for each in (near, far)]
            total += float(sum(digamma(each + 1) for each in within).sum())
            for draw, label in enumerate(labels):
                ross[draw] += self._of_labels(near, label, start, counts[draw])
        kept = [int(size[size > 1].sum()) for size in counts]
        of_labels = [
            sums / max(n, 1) + digamma(n) if n else 0.0 for sums, n in zip(ross, kept, strict=True)
        ]
        inputs = digamma(self.count) + digamma(number) - total / number
        return Found(float(inputs), np.array(of_labels))

    def _of_labels(
        self, near: np.ndarray, label: np.ndarray, start: int, counts: np.ndarray
    ) -> float:
        """Sum of ``psi(k) - psi(N_y) - psi(m)`` over the states of these rows."""
        mine = label[start : start + len(near)]
        usable = counts[label] > 1
        found = 0.0
        for value in np.unique(mine):
            size = int(counts[value])
            if size < 2:
                continue
            rows = near[mine == value]
            k = min(self.count, size - 1)
            reach = np.partition(rows[:, label == value], k - 1, 1)[:, k - 1]
            # Those nearer than the k-th, and itself, as scikit-learn counts.
            m = (rows[:, usable] < reach[:, None]).sum(1) + 1
            found += float((digamma(k) - digamma(size) - digamma(m)).sum())
        return found


def _scaled(values: np.ndarray, random: np.random.Generator) -> np.ndarray:
    """In units of the spread over all entries, which keeps their shape, with a trace of noise."""
    off = values - values.mean(0)
    size = float(np.sqrt((off**2).mean()))
    found: np.ndarray = off / size if size > 0 else off
    return found + JITTER * random.standard_normal(found.shape)


def _distances(
    states: np.ndarray, metric: str, tick: Callable[[], None]
) -> Iterator[tuple[int, np.ndarray]]:
    """From some states after the other, ``[rows, n]``, with the number of the first."""
    for start in range(0, len(states), ROWS):
        tick()
        yield start, cdist(states[start : start + ROWS], states, metric)
