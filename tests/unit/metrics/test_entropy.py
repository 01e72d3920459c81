"""Entropy, effective rank and participation ratio: known spectra, invariances, plain hooks."""

from __future__ import annotations

import math
from typing import Any

import measuring
import numpy as np
import pytest
import torch

from layerlens.errors import InputError
from layerlens.metrics.base import ModelShape
from layerlens.metrics.dataset_entropy import DatasetEntropy
from layerlens.metrics.entropy import EffectiveRank, MatrixEntropy, ParticipationRatio, renyi
from layerlens.metrics.textmeans import TextStates, gram, shares

NAMES = ("matrix_entropy", "effective_rank", "participation_ratio")


def entropy(rows: torch.Tensor, **options: Any) -> float:
    shape = ModelShape(1, 1, rows.shape[1], 9)
    return float(MatrixEntropy(shape, **options).measure(TextStates(rows[None]))[0])


def participation(rows: torch.Tensor, **options: Any) -> float:
    shape = ModelShape(1, 1, rows.shape[1], 9)
    return float(ParticipationRatio(shape, **options).measure(TextStates(rows[None]))[0])


def random(*shape: int) -> torch.Tensor:
    return torch.randn(*shape, dtype=torch.float64, generator=torch.Generator().manual_seed(0))


def turned(d: int) -> torch.Tensor:
    return torch.linalg.qr(random(d, d)).Q


@pytest.mark.parametrize("family", measuring.FAMILIES)
def test_against_plain_hooks(family: str) -> None:
    model = measuring.tiny(family)
    found = measuring.measure(model, [*NAMES, "dataset_entropy"])
    expected: dict[str, list[list[float]]] = {name: [] for name in NAMES}
    pooled = []
    for text in measuring.TEXTS:
        stream = [h[1:].double().numpy() for h in measuring.states(model, text)]
        rows: dict[str, list[float]] = {name: [] for name in NAMES}
        for h in stream:
            z = h - h.mean(0)
            z /= np.linalg.norm(z, axis=1, keepdims=True)
            p = np.linalg.svd(z, compute_uv=False) ** 2
            p = p[p > 1e-12 * p.max()] / p.sum()
            rows["matrix_entropy"].append(-(p * np.log(p)).sum())
            rows["effective_rank"].append(np.exp(-(p * np.log(p)).sum()))
            values = np.linalg.eigvalsh(np.cov(h.T))
            rows["participation_ratio"].append(values.sum() ** 2 / (values**2).sum())
        for name in NAMES:
            expected[name].append(rows[name])
        pooled.append([h.mean(0) for h in stream])
    for name in NAMES:
        np.testing.assert_allclose(found[name], np.mean(expected[name], 0), rtol=1e-4)
    for point, h in enumerate(np.array(pooled).transpose(1, 0, 2)):
        z = h - h.mean(0)
        z /= np.linalg.norm(z, axis=1, keepdims=True)
        p = np.linalg.svd(z, compute_uv=False) ** 2
        p = p[p > 1e-12 * p.max()] / p.sum()
        wanted = -(p * np.log(p)).sum()
        assert found["dataset_entropy"][point] == pytest.approx(wanted, rel=1e-4)
        assert found["dataset_entropy_rank"][point] == pytest.approx(np.exp(wanted), rel=1e-4)


def test_orthonormal_rows_and_rank_one() -> None:
    rows = turned(12)[:7]
    assert entropy(rows, normalize=False) == pytest.approx(math.log(7), abs=1e-12)
    # Taking off the mean costs one direction.
    assert entropy(rows) == pytest.approx(math.log(6), abs=1e-12)
    line = torch.outer(torch.tensor([1.0, 2, -3, 5], dtype=torch.float64), rows[0])
    assert entropy(line) == pytest.approx(0, abs=1e-12)
    assert entropy(line, normalize=False) == pytest.approx(0, abs=1e-12)


@pytest.mark.parametrize("rank", [1, 2, 5])
def test_planted_rank(rank: int) -> None:
    """Rows along ``rank`` directions and back have that many equal eigenvalues."""
    axes = turned(16)[:rank]
    rows = torch.cat([axes, -axes]) * 3 + 100
    shape = ModelShape(1, 1, 16, 9)
    found = EffectiveRank(shape).measure(TextStates(rows[None]))[0]
    assert float(found) == pytest.approx(rank, rel=1e-9)
    assert participation(rows) == pytest.approx(rank, rel=1e-9)
    assert participation(rows, standardize=True) <= 16


@pytest.mark.parametrize("alpha", [0.5, 1, 2, 3])
def test_invariances_and_bounds(alpha: float) -> None:
    rows = random(20, 9)
    value = entropy(rows, alpha=alpha)
    assert entropy(rows @ turned(9), alpha=alpha) == pytest.approx(value, abs=1e-12)
    assert entropy(5 * rows, alpha=alpha) == pytest.approx(value, abs=1e-12)
    assert entropy(rows + 3, alpha=alpha) == pytest.approx(value, abs=1e-10)
    assert entropy(rows, alpha=alpha + 0.5) <= value
    assert math.exp(value) <= 9


def test_order_two_needs_no_eigenvalues() -> None:
    rows = random(20, 9)
    kernel = rows @ rows.T
    expected = -math.log(float(kernel.square().sum() / kernel.trace() ** 2))
    assert entropy(rows, alpha=2, normalize=False) == pytest.approx(expected, abs=1e-12)
    moved = rows - rows.mean(0)
    assert participation(rows) == pytest.approx(math.exp(renyi(shares(gram(moved)), 2)), rel=1e-12)


def test_isotropic_states_have_the_known_bias() -> None:
    """500 rows in 50 dimensions give about 50 / (1 + 50 / 500)."""
    assert participation(random(500, 50)) == pytest.approx(50 / 1.1, rel=0.01)


def test_one_token_and_equal_states() -> None:
    assert entropy(torch.ones(1, 4)) == 0
    assert entropy(torch.full((5, 4), 0.1)) == 0
    assert math.isnan(participation(torch.full((5, 4), 0.1)))
    assert np.isnan(
        measuring.measure(measuring.tiny("llama"), NAMES, [[5]])["effective_rank"]
    ).all()


def test_an_identity_block_changes_nothing() -> None:
    model = measuring.planted(8, [lambda h: h, lambda h: 2 * h])
    for name, value in measuring.measure(model, [*NAMES, "curvature"]).items():
        np.testing.assert_allclose(value, value[:1].repeat(3), rtol=1e-9, err_msg=name)


def test_orthogonal_texts() -> None:
    """n orthogonal means, less theirs, have n - 1 equal eigenvalues."""
    states = turned(10)[:6, None].expand(6, 2, 10).float()
    found = DatasetEntropy(ModelShape(1, 1, 10, 9)).compute(states)
    np.testing.assert_allclose(found["dataset_entropy"], math.log(5), rtol=1e-6)
    np.testing.assert_allclose(found["dataset_entropy_rank"], 5, rtol=1e-6)
    np.testing.assert_allclose(found["dataset_entropy_share"], math.log(5) / math.log(6), rtol=1e-6)


def test_padding_and_merging() -> None:
    for family in ("llama", "gpt2"):
        model = measuring.tiny(family)
        measuring.assert_padding_is_nothing(model, [*NAMES, "dataset_entropy"])
        measuring.assert_merged_is_single(model, [*NAMES, "dataset_entropy"])


def test_bad_options() -> None:
    for alpha in (0, -1, math.inf):
        for name in ("matrix_entropy", "dataset_entropy"):
            with pytest.raises(InputError, match="alpha is"):
                measuring.measure(measuring.tiny("llama"), name, options={name: {"alpha": alpha}})
