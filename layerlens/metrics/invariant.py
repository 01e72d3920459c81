"""Whether vectors of altered copies of a text stay together: InfoNCE, DiME and LiDAR."""

from __future__ import annotations

import math

import numpy as np
import torch
from torch import Tensor

from layerlens.errors import InputError
from layerlens.metrics.entropy import renyi
from layerlens.metrics.textmeans import unit

DELTA = 1e-4
"""Variance that LiDAR adds in every direction."""


def infonce(one: Tensor, other: Tensor, temperature: float = 0.1) -> float:
    """Loss in nats of finding a text's other view among all views (SimCLR's NT-Xent).

    Parameters
    ----------
    one, other
        [n, d] float64, row by row two views of the same text.
    temperature
        Cosines are divided by it.
    """
    rows = unit(torch.cat([one, other]))
    n = len(one)
    scores = rows @ rows.T / temperature
    partner = torch.arange(2 * n).roll(n)
    found = scores[torch.arange(2 * n), partner]
    scores.fill_diagonal_(-torch.inf)
    return float((scores.logsumexp(-1) - found).mean())


def dime(one: Tensor, other: Tensor, permutations: int = 10, seed: int = 0) -> float:
    """Difference of matrix-based entropies in nats: what two views say of each other.

    Mean over permutations of ``S(K_X o P K_Y P^T)``, less ``S(K_X o K_Y)``; K: cosines over n.

    Parameters
    ----------
    one, other
        [n, d] float64, row by row two views of the same text.
    permutations, seed
        How many shuffled pairings the mean is of, and the seed of them.
    """
    mine, theirs = (unit(rows) for rows in (one, other))
    left, right = mine @ mine.T, theirs @ theirs.T
    paired = _entropy(left * right)
    random = np.random.default_rng(seed)
    orders = [torch.from_numpy(random.permutation(len(one))) for _ in range(permutations)]
    shuffled = [_entropy(left * right[order][:, order]) for order in orders]
    return float(np.mean(shuffled)) - paired


def _entropy(kernel: Tensor) -> float:
    found = torch.linalg.eigvalsh(kernel).clamp(min=0)
    return float(renyi(found / found.sum()))


def lidar(views: Tensor, delta: float = DELTA) -> float:
    """Effective rank of the spread between texts, relative to that within texts.

    Exponential of the entropy of the eigenvalues of ``W^-1/2 B W^-1/2``, B: covariance of the
    texts' means, W: of the views about them, plus ``delta`` in every direction.

    Parameters
    ----------
    views
        [text, view, d] float64.

    Returns
    -------
    float
        From 1 to the number of texts less one; NaN where all means are the same.

    Raises
    ------
    InputError
        For a single view, which leaves no spread within texts.
    """
    texts, copies, width = views.shape
    if copies < 2:
        raise InputError("LiDAR compares views of a text: at least 2 are needed.")
    rows = (views - views.mean((0, 1))).flatten(0, 1)
    if width > len(rows):  # nothing varies outside the span of the rows
        left, sizes, _ = torch.linalg.svd(rows, full_matrices=False)
        rows = left * sizes
    views = rows.view(texts, copies, -1)
    means = views.mean(1)
    inner = (views - means[:, None]).flatten(0, 1)
    within = inner.T @ inner / len(inner)
    within.diagonal().add_(delta)
    whitened = torch.linalg.solve_triangular(torch.linalg.cholesky(within), means.T, upper=False)
    found = torch.linalg.eigvalsh(whitened.T @ whitened)
    found = found[found > 1e-12 * found[-1].clamp(min=1e-300)]
    return math.exp(renyi(found / found.sum())) if len(found) else math.nan
