"""Scores that say how unlike the texts that it was fitted on a state is; larger is less alike."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
import torch
from scipy.spatial.distance import cdist

from layerlens.run.head_rows import Head

if TYPE_CHECKING:
    from layerlens.analyses.sweeps.clean_pass import Pass
    from layerlens.model.lensmodel import LensModel

ROUNDING = 1e-9
"""States that differ by less than this share of their largest entry are the same."""


@dataclass(frozen=True)
class Gaussian:
    """A normal distribution for each label, with one covariance for all.

    Attributes
    ----------
    means
        ``[label, d]``.
    axes
        ``[r, d]`` eigenvectors of the covariance whose eigenvalue is not 0.
    spread
        ``[r]`` these eigenvalues.
    ridge
        Added to every eigenvalue.
    """

    means: np.ndarray
    axes: np.ndarray
    spread: np.ndarray
    ridge: float

    @classmethod
    def of(cls, states: np.ndarray, place: np.ndarray, ridge: float) -> Gaussian:
        """Fit to states.

        Parameters
        ----------
        states
            ``[n, d]`` float64.
        place
            ``[n]`` the number of each one's label, from 0.
        ridge
            In units of the mean variance of an entry.
        """
        means = np.stack([states[place == label].mean(0) for label in range(place.max() + 1)])
        off = states - means[place]
        if np.abs(off).max() <= ROUNDING * np.abs(states).max():
            return cls(means, np.zeros((0, states.shape[1])), np.zeros(0), 1.0)
        _, sizes, axes = np.linalg.svd(off, full_matrices=False)
        kept = sizes > ROUNDING * sizes[0]
        spread = sizes[kept] ** 2 / len(states)
        return cls(means, axes[kept], spread, ridge * float(spread.sum()) / states.shape[1])

    def __call__(self, states: np.ndarray) -> np.ndarray:
        """Squared Mahalanobis distance ``[n]`` of ``[n, d]`` from the nearest mean.

        Lee et al. (2018), A Simple Unified Framework for Detecting Out-of-Distribution Samples and
        Adversarial Attacks, arXiv 1807.03888. Without any spread it is the squared distance.

        Examples
        --------
        >>> known = np.array([[-1.0, 0.0], [1.0, 0.0], [0.0, 2.0], [0.0, -2.0]])
        >>> gaussian = Gaussian.of(known, np.zeros(4, int), ridge=0.0)
        >>> gaussian(np.array([[3.0, 0.0], [0.0, 2.0]])).round(6).tolist()
        [18.0, 2.0]
        """
        return np.min([self._from(states - mean) for mean in self.means], axis=0)  # type: ignore[no-any-return]

    def _from(self, off: np.ndarray) -> np.ndarray:
        along = off @ self.axes.T
        # What lies outside of the axes has no variance but the ridge.
        rest = ((off - along @ self.axes) ** 2).sum(1)
        inside = (along**2 / (self.spread + self.ridge)).sum(1)
        if len(self.axes) == off.shape[1]:
            return inside  # type: ignore[no-any-return]
        return inside + rest / self.ridge  # type: ignore[no-any-return]


def neighbour_distance(states: np.ndarray, known: np.ndarray, neighbours: int) -> np.ndarray:
    """Distance ``[n]`` of each state from the k-th nearest known one, all cut to length 1.

    Sun et al. (2022), Out-of-Distribution Detection with Deep Nearest Neighbors, arXiv 2204.06507.

    Parameters
    ----------
    states, known
        ``[n, d]`` and ``[m, d]`` float64.
    neighbours
        k, at most m.

    Examples
    --------
    >>> known = np.array([[2.0, 0.0], [0.0, 3.0]])
    >>> neighbour_distance(np.array([[0.0, 1.0]]), known, 2).round(3).tolist()
    [1.414]
    """
    unit = [rows / np.linalg.norm(rows, axis=1, keepdims=True) for rows in (states, known)]
    # Not by products, so that the distance of equal states is 0 and ties are ties.
    found: np.ndarray = np.partition(cdist(*unit), neighbours - 1, axis=1)[:, neighbours - 1]
    return found


def energies(
    model: LensModel, head: Head, states: np.ndarray, tick: Callable[[], None]
) -> np.ndarray:
    """Energy ``[n]`` in nats of states ``[n, d]``, as the head reads them.

    Minus the log-sum-exp of the logits: Liu et al. (2020), Energy-based Out-of-distribution
    Detection, arXiv 2010.03759, at temperature 1.
    """
    rows = torch.from_numpy(states).to(device=model.device, dtype=model.dtype)
    x = head.accept(model.head_input(rows))
    nothing = torch.empty((len(x), 0), dtype=torch.int64, device=x.device)
    return -head.reduce(x, nothing, 1, tick).log_norm.double().cpu().numpy()


def answered_energies(model: LensModel, one: Pass, tick: Callable[[], None]) -> np.ndarray:
    """Energy ``[point, text]`` in nats of whole texts, where a head answers once for a text.

    It reads the states of all positions, as it does behind the last block.
    """
    kept = one.batch.tokens.mask.to(one.states[0].device)
    found = np.empty((len(one.states), len(kept)))
    for point, state in enumerate(one.states):
        tick()
        for row, real in enumerate(kept):  # each by itself: padding is no part of a mean
            with model.running():
                logits = model.answer(state[row, real][None])
            found[point, row] = -float(logits.double().logsumexp(-1))
    return found
