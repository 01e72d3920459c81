"""InfoNCE, DiME, LiDAR: the values that vectors of known geometry have."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from test_similarity import random

from layerlens.errors import InputError
from layerlens.metrics.invariant import dime, infonce, lidar


def test_infonce_of_identical_orthogonal_views() -> None:
    rows = torch.eye(16, dtype=torch.float64)
    expected = math.log(1 + 30 * math.exp(-10))
    assert infonce(rows, rows) == pytest.approx(expected, rel=1e-10)
    assert infonce(rows, 3 * rows, 0.5) == pytest.approx(math.log(1 + 30 * math.exp(-2)), rel=1e-10)


def test_infonce_of_constant_vectors() -> None:
    assert infonce(torch.ones(8, 3), torch.ones(8, 3)) == pytest.approx(math.log(15), rel=1e-6)


def test_infonce_by_cross_entropy() -> None:
    one, other = random(9, 5), random(9, 5, seed=1)
    rows = torch.nn.functional.normalize(torch.cat([one, other]))
    scores = (rows @ rows.T / 0.1).masked_fill(torch.eye(18, dtype=torch.bool), -torch.inf)
    target = torch.cat([torch.arange(9, 18), torch.arange(9)])
    expected = torch.nn.functional.cross_entropy(scores, target)
    assert infonce(one, other) == pytest.approx(float(expected), rel=1e-12)


def test_dime_of_clusters() -> None:
    """Four clusters of 16, both views the same: 1.31 nats, towards log 4 with more texts."""
    rows = torch.eye(4, dtype=torch.float64).repeat_interleave(16, 0)
    assert dime(rows, rows) == pytest.approx(1.31, abs=0.02)
    many = torch.eye(4, dtype=torch.float64).repeat_interleave(100, 0)
    assert dime(many, many) == pytest.approx(math.log(4), abs=0.03)


def test_dime_without_dependence() -> None:
    one = random(64, 100)
    assert abs(dime(one, random(64, 100, seed=1))) < 2e-3
    assert dime(one, torch.ones(64, 2, dtype=torch.float64)) == pytest.approx(0, abs=1e-12)
    assert 0 < dime(one[:, :5], one[:, :5]) <= math.log(64)


def test_lidar_of_orthogonal_means() -> None:
    """n orthogonal means without spread within: n - 1."""
    means = torch.eye(6, 20, dtype=torch.float64)
    assert lidar(means[:, None].expand(6, 4, 20)) == pytest.approx(5, rel=1e-6)
    assert lidar(means[:, None].expand(6, 4, 20)[..., :6]) == pytest.approx(5, rel=1e-6)


@pytest.mark.parametrize("width", [5, 60])
def test_lidar_by_its_formula(width: int) -> None:
    views = random(7, 4, width) + 2 * random(7, 1, width, seed=1)
    means = views.mean(1)
    between = np.cov(means.numpy().T, bias=True)
    inner = (views - means[:, None]).reshape(-1, width).numpy()
    within = inner.T @ inner / len(inner) + 1e-4 * np.eye(width)
    values, vectors = np.linalg.eigh(within)
    root = vectors / np.sqrt(values) @ vectors.T
    found = np.linalg.eigvalsh(root @ between @ root)
    p = found[found > 1e-12 * found.max()] / found[found > 0].sum()
    assert lidar(views) == pytest.approx(np.exp(-(p * np.log(p)).sum()), rel=1e-6)


def test_lidar_needs_two_views_and_some_spread() -> None:
    with pytest.raises(InputError, match="at least 2"):
        lidar(random(5, 1, 3))
    assert math.isnan(lidar(torch.ones(5, 2, 3, dtype=torch.float64)))


def test_lidar_of_one_direction() -> None:
    """Texts along a line have rank 1, however wide the space."""
    place = torch.arange(6, dtype=torch.float64)[:, None, None] * torch.ones(1, 3, 1)
    views = place * random(10) + 1e-9 * random(6, 3, 10, seed=2)
    assert lidar(views) == pytest.approx(1, abs=1e-6)
