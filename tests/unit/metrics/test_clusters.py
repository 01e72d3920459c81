"""Runs of neighbouring layers: all cuts tried one by one, planted blocks."""

from __future__ import annotations

from itertools import combinations

import numpy as np
import pytest

from layerlens.errors import InputError
from layerlens.metrics.clusters import clusters, contiguous, scatter


def blocks(*sizes: int, outside: float = 0.1) -> np.ndarray:
    label = np.repeat(range(len(sizes)), sizes)
    return np.where(label[:, None] == label, 1.0, outside)


@pytest.mark.parametrize("n", [1, 2, 3, 4, 8])
def test_against_all_cuts(n: int) -> None:
    rows = np.random.default_rng(0).normal(size=(8, 3)).cumsum(0)
    similarity = rows @ rows.T
    best = np.inf
    for cuts in combinations(range(1, 8), n - 1):
        parts = np.split(rows, cuts)
        best = min(best, sum(((part - part.mean(0)) ** 2).sum() for part in parts))
    found = contiguous(similarity, n)
    assert found[0] == 0
    assert set(np.diff(found)) <= {0, 1}
    assert found[-1] == n - 1
    mine = [rows[found == number] for number in range(n)]
    assert sum(((part - part.mean(0)) ** 2).sum() for part in mine) == pytest.approx(best)


def test_scatter_is_that_of_points() -> None:
    rows = np.random.default_rng(0).normal(size=(6, 3))
    found = scatter(rows @ rows.T)
    part = rows[1:5]
    assert found[1, 4] == pytest.approx(((part - part.mean(0)) ** 2).sum())
    assert found[2, 2] == pytest.approx(0, abs=1e-12)


@pytest.mark.parametrize("n", [None, 3])
def test_planted_blocks(n: int | None) -> None:
    np.testing.assert_array_equal(contiguous(blocks(3, 4, 2), n), [0, 0, 0, 1, 1, 1, 1, 2, 2])


def test_ties_are_cut_leftmost_and_copies_stay_together() -> None:
    np.testing.assert_array_equal(contiguous(np.eye(4), 2), [0, 1, 1, 1])
    np.testing.assert_array_equal(contiguous(np.ones((5, 5))), np.zeros(5))


def test_unknown_similarities_and_bad_numbers() -> None:
    matrix = blocks(2, 2)
    matrix[0, 1] = np.nan
    np.testing.assert_array_equal(contiguous(matrix, 2), [-1] * 4)
    with pytest.raises(InputError, match="5 clusters"):
        contiguous(blocks(2, 2), 5)


def test_runs_of_similarities_and_of_distances() -> None:
    similarity = blocks(3, 4, 2)
    runs = [(0, 2), (3, 6), (7, 8)]
    assert clusters(similarity) == runs
    assert clusters(1 - similarity) == runs
    half = np.where(np.tri(9, k=0, dtype=bool), np.nan, 1 - similarity)
    assert clusters(half) == runs
    assert clusters(np.full((3, 3), np.nan)) == []
    assert clusters(np.ones((1, 1))) == [(0, 0)]
    assert clusters(similarity, 1) == [(0, 8)]


def test_no_more_than_can_be_told_apart() -> None:
    assert contiguous(np.eye(20)).max() == 7
    assert contiguous(np.eye(20), 12).max() == 11
