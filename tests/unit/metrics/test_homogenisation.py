"""Likeness of tokens within and between texts: all pairs one by one, and identities."""

from __future__ import annotations

import math

import measuring
import numpy as np
import pytest
import torch

from layerlens.metrics.base import ModelShape
from layerlens.metrics.homogenisation import Homogenisation
from layerlens.metrics.self_similarity import SelfSimilarity
from layerlens.metrics.textmeans import TextStates, unit

NAMES = ("homogenisation", "anisotropy", "self_similarity")


def homogenisation(rows: torch.Tensor) -> tuple[float, float]:
    metric = Homogenisation(ModelShape(1, 1, rows.shape[1], 9))
    cosine, residual = metric.measure(TextStates(rows[None]))
    return float(cosine), float(residual)


def random(*shape: int) -> torch.Tensor:
    return torch.randn(*shape, dtype=torch.float64, generator=torch.Generator().manual_seed(0))


@pytest.mark.parametrize("family", measuring.FAMILIES)
def test_against_all_pairs(family: str) -> None:
    model = measuring.tiny(family)
    found = measuring.measure(model, NAMES)
    stream = [measuring.states(model, text) for text in measuring.TEXTS]
    text = np.repeat(range(len(stream)), [len(t) - 1 for t in measuring.TEXTS])
    ids = np.concatenate([t[1:] for t in measuring.TEXTS])
    for point in range(model.n_layers + 1):
        rows = torch.cat([h[point][1:] for h in stream]).double().numpy()
        cosine = _cosines(rows)
        pairs = ~np.eye(len(rows), dtype=bool)
        same = text[:, None] == text
        between, within = cosine[~same].mean(), cosine[same & pairs].mean()
        assert found["anisotropy"][point] == pytest.approx(between, abs=1e-5)
        assert found["anisotropy_within"][point] == pytest.approx(within, abs=1e-5)
        assert found["anisotropy_adjusted"][point] == pytest.approx(within - between, abs=1e-5)
        assert found["self_similarity_baseline"][point] == pytest.approx(between, abs=1e-5)
        standard = _cosines((rows - rows.mean(0)) / rows.std(0))[~same].mean()
        assert found["self_similarity_standardized"][point] == pytest.approx(standard, abs=1e-5)
        again = [
            cosine[np.ix_(ids == i, ids == i)][~np.eye((ids == i).sum(), dtype=bool)].mean()
            for i in set(ids.tolist())
            if (ids == i).sum() > 1
        ]
        wanted = np.mean(again) - between
        assert found["self_similarity"][point] == pytest.approx(wanted, abs=1e-5)
        by_text = [
            cosine[np.ix_(text == t, text == t)][~np.eye((text == t).sum(), dtype=bool)].mean()
            for t in range(len(stream))
        ]
        assert found["homogenisation"][point] == pytest.approx(np.mean(by_text), abs=1e-5)


def _cosines(rows: np.ndarray) -> np.ndarray:
    rows = rows / np.linalg.norm(rows, axis=1, keepdims=True)
    return rows @ rows.T


def test_the_same_and_orthogonal_rows() -> None:
    assert homogenisation(random(1, 7).expand(5, 7)) == pytest.approx((1, 0), abs=1e-7)
    cosine, residual = homogenisation(torch.eye(6, dtype=torch.float64))
    assert cosine == pytest.approx(0, abs=1e-12)
    assert residual == pytest.approx(math.sqrt(5 / 6), abs=1e-12)
    assert math.isnan(homogenisation(random(1, 7))[0])


def test_identities_of_unit_rows() -> None:
    """rho^2 = 1 - |mean|^2 and cosine = (n (1 - rho^2) - 1) / (n - 1), at least -1 / (n - 1)."""
    rows = unit(random(9, 4) + 0.5)
    cosine, residual = homogenisation(rows)
    assert residual**2 == pytest.approx(1 - float(rows.mean(0).square().sum()), abs=1e-12)
    assert cosine == pytest.approx((9 * (1 - residual**2) - 1) / 8, abs=1e-12)
    simplex = torch.eye(5, dtype=torch.float64) - 0.2
    assert homogenisation(simplex)[0] == pytest.approx(-0.25, abs=1e-12)


def test_a_common_direction_is_anisotropy() -> None:
    """States c + noise have cosine |c|^2 / (|c|^2 + d) with each other, whatever the text."""
    model = measuring.planted(64, [lambda h: 0.01 * h + 100])
    texts = [[i, i + 1, i + 2, i + 3] for i in range(0, 36, 4)]
    found = measuring.measure(model, NAMES, texts)
    assert found["anisotropy"][1] == pytest.approx(1, abs=1e-6)
    assert abs(found["anisotropy"][0]) < 0.02
    assert found["anisotropy_low"][0] < found["anisotropy"][0] < found["anisotropy_high"][0]
    assert found["anisotropy_adjusted"][1] == pytest.approx(0, abs=1e-6)
    # The common direction is the mean: standardized, nothing of it is left.
    standard = found["self_similarity_standardized"]
    assert standard[1] == pytest.approx(standard[0], abs=1e-3)


def test_a_token_without_context_is_like_itself() -> None:
    model = measuring.planted(16, [lambda h: h])
    found = measuring.measure(model, "self_similarity")
    likeness = found["self_similarity"] + found["self_similarity_baseline"]
    np.testing.assert_allclose(likeness, 1, atol=1e-6)


def test_live_values_are_those_at_the_end() -> None:
    model = measuring.tiny("llama")
    metrics = measuring.gather(model, "anisotropy", [(model.tokens(measuring.TEXTS), range(4))])
    quick, full = metrics.values(intervals=False), metrics.values()
    for name, value in quick.items():
        np.testing.assert_allclose(value, full[name], rtol=1e-12)


def test_a_single_text_has_no_other() -> None:
    found = measuring.measure(measuring.tiny("llama"), NAMES, [[1, 2, 3, 4]])
    assert np.isnan(found["anisotropy"]).all()
    assert np.isfinite(found["anisotropy_within"]).all()
    assert np.isnan(found["self_similarity_baseline"]).all()


def test_padding_and_merging() -> None:
    model = measuring.tiny("gpt2")
    measuring.assert_padding_is_nothing(model, NAMES)
    measuring.assert_merged_is_single(model, NAMES)


def test_sizes() -> None:
    assert SelfSimilarity.defaults() == {"sample": 1024}
