"""RSA, Procrustes and mutual neighbours: known answers of each."""

from __future__ import annotations

import numpy as np
import pandas as pd
import pytest
import torch
from test_similarity import comparison, random, stacked

from layerlens.metrics.base import ModelShape
from layerlens.metrics.neighbours import MutualNeighbours, neighbours
from layerlens.metrics.rsa import distances, ranks


def test_ranks_with_ties() -> None:
    values = torch.tensor([3.0, 1, 1, 2, 3, 3], dtype=torch.float64)
    expected = pd.Series(values.numpy()).rank().to_numpy() - 1
    np.testing.assert_array_equal(ranks(values).numpy(), expected)


@pytest.mark.parametrize("kind", ["correlation", "cosine", "euclidean"])
def test_distances(kind: str) -> None:
    rows = random(9, 4).numpy()
    upper = np.triu_indices(9, 1)
    units = rows / np.linalg.norm(rows, axis=1, keepdims=True)
    expected = {
        "correlation": 1 - np.corrcoef(rows),
        "cosine": 1 - units @ units.T,
        "euclidean": np.linalg.norm(rows[:, None] - rows, axis=-1),
    }[kind]
    found = distances(torch.from_numpy(rows), kind)
    np.testing.assert_allclose(found, expected[upper], atol=1e-12)


def test_any_rising_function_of_the_distances_keeps_their_ranks() -> None:
    """On a line the distances of x and of x^3 about 0 rank alike only in part; of 2 x fully."""
    rows = random(60, 5)
    bent = rows / rows.norm(dim=-1, keepdim=True)
    found = comparison("rsa", 5, distance="cosine").between(stacked(rows, bent))
    np.testing.assert_allclose(found, 1, atol=1e-9)


def test_shuffled_tokens_have_no_correlation() -> None:
    x = random(200, 6)
    found = comparison("rsa").between(stacked(x, x[torch.randperm(200)]))
    # n tokens and not n (n - 1) / 2 pairs are independent.
    assert abs(found[0, 1]) < 4 / np.sqrt(200)
    pearson = comparison("rsa", rank=False).between(stacked(x, x))
    np.testing.assert_allclose(pearson, 1)


def test_procrustes_is_a_metric() -> None:
    """The distances sqrt(2 - 2 s) obey the triangle inequality, and 2 - 2 s is the least error."""
    made = comparison("procrustes")
    states = stacked(*(random(40, 6, seed=i) + random(40, 6) for i in range(5)))
    similarity = made.between(states)
    apart = np.sqrt(np.clip(2 - 2 * similarity, 0, None))
    assert (apart[:, None] <= apart[:, :, None] + apart[None] + 1e-9).all()
    x, y = (states[:, i] - states[:, i].mean(0) for i in (0, 1))
    x, y = x / x.norm(), y / y.norm()
    u, _, vt = torch.linalg.svd(x.T @ y)
    error = float((x @ (u @ vt) - y).square().sum())
    assert error == pytest.approx(2 - 2 * similarity[0, 1], abs=1e-9)


def test_more_dimensions_than_tokens() -> None:
    x, y = random(20, 50), random(20, 50, seed=1)
    found = comparison("procrustes", 50).between(stacked(x, y))[0, 1]
    x, y = (z - z.mean(0) for z in (x, y))
    expected = torch.linalg.svdvals(x.T @ y).sum() / x.norm() / y.norm()
    assert found == pytest.approx(float(expected), abs=1e-10)


def test_neighbours_one_by_one() -> None:
    rows = random(30, 4)
    found = neighbours(rows, 5)
    units = rows / rows.norm(dim=-1, keepdim=True)
    for i in range(30):
        order = [j for j in (units @ units[i]).argsort(descending=True).tolist() if j != i]
        assert set(found[i].nonzero()[:, 0].tolist()) == set(order[:5])


def test_ties_go_to_the_lower_index() -> None:
    found = neighbours(torch.ones(6, 3, dtype=torch.float64), 2)
    assert found[0].nonzero()[:, 0].tolist() == [1, 2]
    assert found[5].nonzero()[:, 0].tolist() == [0, 1]


def test_independent_states_share_neighbours_by_chance() -> None:
    states = stacked(random(500, 20), random(500, 20, seed=1))
    found = MutualNeighbours(ModelShape(1, 1, 20, 9)).compute(states)
    assert float(found["mutual_neighbours_chance"]) == pytest.approx(10 / 499)
    assert found["mutual_neighbours"][0, 1] == pytest.approx(10 / 499, abs=0.01)


def test_planted_groups_share_their_neighbours() -> None:
    """Groups of k + 1 tokens are each other's neighbours, however the groups lie."""
    group = torch.arange(44) // 11
    states = [10 * random(4, 8, seed=s)[group] + 0.01 * random(44, 8, seed=s + 9) for s in (1, 2)]
    found = comparison("mutual_neighbours", 8).between(stacked(*states))
    np.testing.assert_allclose(found, 1)
