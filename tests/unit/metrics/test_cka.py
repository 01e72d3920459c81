"""CKA: known values with and without bias, mini-batches, sums against Gram matrices."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from test_similarity import comparison, random, stacked

from layerlens.errors import InputError
from layerlens.metrics.base import ModelShape
from layerlens.metrics.cka import hsic
from layerlens.metrics.cka_exact import CkaExact


def test_independent_states() -> None:
    """100 tokens in 1000 dimensions: p / (n + p) = 0.909 with its bias, 0 without."""
    states = stacked(random(100, 1000), random(100, 1000, seed=1))
    biased = comparison("cka", 1000, debiased=False).between(states)[0, 1]
    assert biased == pytest.approx(1000 / 1100, abs=0.005)
    pairs = [stacked(random(100, 1000, seed=s), random(100, 1000, seed=s + 50)) for s in range(20)]
    made = comparison("cka", 1000)
    assert abs(np.mean([made.between(pair)[0, 1] for pair in pairs])) < 0.01


def test_biased_is_the_ratio_of_frobenius_norms() -> None:
    x, y = random(50, 6), random(50, 6, seed=1) + random(50, 6)
    found = comparison("cka", debiased=False).between(stacked(x, y))[0, 1]
    x, y = (z - z.mean(0) for z in (x, y))
    expected = (x.T @ y).norm() ** 2 / ((x.T @ x).norm() * (y.T @ y).norm())
    assert found == pytest.approx(float(expected), abs=1e-12)


def test_mini_batches_agree() -> None:
    x = random(2000, 20)
    states = stacked(x, x + random(2000, 20, seed=1))
    whole = comparison("cka", 20).between(states)[0, 1]
    for batch in (20, 50, 250, 1000):
        found = comparison("cka", 20, batch=batch).between(states)[0, 1]
        assert found == pytest.approx(whole, abs=0.01)
    assert comparison("cka", 20, batch=5000).between(states)[0, 1] == whole


def test_it_is_not_invariant_to_stretching() -> None:
    x = random(300, 6)
    stretched = x * torch.tensor([10.0, 1, 1, 1, 1, 1])
    assert comparison("cka").between(stacked(x, stretched))[0, 1] < 0.7


def test_chunks_of_the_gram_matrix() -> None:
    x, y = random(300, 5), random(300, 5, seed=1)
    n = 300
    k, l = (z @ z.T - torch.diag((z @ z.T).diagonal()) for z in (x, y))  # noqa: E741
    expected = (k * l).sum() + k.sum() * l.sum() / ((n - 1) * (n - 2))
    expected = (expected - 2 / (n - 2) * (k.sum(0) @ l.sum(0))) / (n * (n - 3))
    assert hsic(x[None], y[None])[0, 0] == pytest.approx(float(expected), rel=1e-10)
    with pytest.raises(InputError, match="at least 4 tokens"):
        hsic(x[None, :3], y[None, :3])


@pytest.mark.parametrize("shift", [0.0, 10.0])
def test_sums_equal_gram_matrices(shift: float) -> None:
    """The sums of `CkaExact` hold what the Gram matrices do, also far from the origin."""
    states = stacked(random(200, 7), random(200, 7, seed=1), random(200, 7)) + shift
    states[:, 2] += states[:, 1]
    metric = CkaExact(ModelShape(2, 1, 7, 9))
    for part in (states[:50], states[50:]):
        metric._states = list(part.unbind(1))
        metric.end(None)  # type: ignore[arg-type]
    expected = comparison("cka", 7).between(states)
    np.testing.assert_allclose(metric.value()["cka_exact"], expected, atol=1e-10 + 1e-9 * shift)


def test_standard_error_of_hsic_is_small() -> None:
    """HSIC_1 of independent states has mean 0."""
    found = [hsic(random(1, 30, 3, seed=i), random(1, 30, 3, seed=i + 999)) for i in range(300)]
    values = np.array(found).ravel()
    assert abs(values.mean()) < 3 * values.std() / np.sqrt(300)
