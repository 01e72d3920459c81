"""Canonical correlations: planted ones, invariance to any invertible map, chance."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from test_similarity import comparison, random, stacked

from layerlens.metrics.base import ModelShape
from layerlens.metrics.cca import Pwcca, Svcca, correlations, directions


def test_planted_correlations() -> None:
    """Columns shared in part with noise have the correlations that they were given."""
    basis = torch.linalg.qr(random(400, 12) - random(400, 12).mean(0)).Q
    basis = torch.linalg.qr(basis - basis.mean(0)).Q
    planted = torch.tensor([0.95, 0.7, 0.3], dtype=torch.float64)
    x = basis[:, :3] @ random(3, 3, seed=1)
    y = planted * basis[:, :3] + (1 - planted**2).sqrt() * basis[:, 3:6]
    y = y @ random(3, 3, seed=2)
    one, other = directions(x, 1, 40), directions(y, 1, 40)
    found, _ = correlations(one, other)
    torch.testing.assert_close(found, planted, atol=1e-9, rtol=0)
    assert comparison("svcca", 3, variance=1.0).between(stacked(x, y))[0, 1] == pytest.approx(
        float(planted.mean()), abs=1e-9
    )


@pytest.mark.parametrize("name", ["svcca", "pwcca"])
def test_any_invertible_map_of_the_other_side(name: str) -> None:
    x, y = random(300, 5), random(300, 5, seed=1)
    y = y + x
    made = comparison(name, 5, variance=1.0)
    expected = made.between(x[:, None], y[:, None])
    mapped = made.between(x[:, None], (y @ random(5, 5, seed=2))[:, None])
    np.testing.assert_allclose(mapped, expected, atol=1e-9)


def test_pwcca_is_not_symmetric() -> None:
    x = random(300, 5) * torch.tensor([9.0, 3, 1, 1, 1])
    y = random(300, 5, seed=1)
    y[:, 0] += x[:, 0]
    found = comparison("pwcca", 5, variance=1.0).between(stacked(x, y))
    assert abs(found[0, 1] - found[1, 0]) > 0.05


def test_chance_and_what_is_kept() -> None:
    """500 tokens in 8 dimensions: about 0.12 for independent states, not 0."""
    states = stacked(random(500, 8), random(500, 8, seed=1))
    found = Svcca(ModelShape(1, 1, 8, 9), variance=1.0).compute(states)
    assert found["svcca"][0, 1] == pytest.approx(0.12, abs=0.04)
    np.testing.assert_allclose(found["svcca_chance"], 0.12, atol=0.04)
    np.testing.assert_array_equal(found["svcca_kept"], [8, 8])
    np.testing.assert_allclose(found["svcca_share"], 1)


def test_no_more_than_a_tenth_of_the_tokens() -> None:
    states = stacked(random(50, 30), random(50, 30, seed=1))
    found = Pwcca(ModelShape(1, 1, 30, 9)).compute(states)
    np.testing.assert_array_equal(found["pwcca_kept"], [5, 5])
    sizes = torch.linalg.svdvals(states[:, 0] - states[:, 0].mean(0)).square()
    assert found["pwcca_share"][0] == pytest.approx(float(sizes[:5].sum() / sizes.sum()))


def test_directions_below_the_variance_are_left_out() -> None:
    x = random(200, 4) * torch.tensor([10.0, 10, 1e-3, 1e-3])
    found = directions(x - x.mean(0), 0.99, 20)
    assert len(found.loadings) == 2
    torch.testing.assert_close(found.basis.T @ found.basis, torch.eye(2, dtype=torch.float64))
