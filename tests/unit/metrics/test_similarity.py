"""What holds for every comparison of depths, and each against a naive formula on a model."""

from __future__ import annotations

from typing import Any

import measuring
import numpy as np
import pytest
import torch

from layerlens.errors import InputError, MemoryLimitError
from layerlens.metrics import registry
from layerlens.metrics.base import ModelShape
from layerlens.metrics.similarity import Comparison

NAMES = ("cka", "svcca", "pwcca", "rsa", "procrustes", "mutual_neighbours")
TEXTS = [[(7 * i + 3 * j * j + i * j) % 40 for j in range(9)] for i in range(8)]


def comparison(name: str, d: int = 6, **options: Any) -> Comparison:
    kind = registry.get(name)
    made = kind(ModelShape(1, 1, d, 9), **{**kind.defaults(), **options})
    assert isinstance(made, Comparison)
    return made


def random(*shape: int, seed: int = 0) -> torch.Tensor:
    return torch.randn(*shape, dtype=torch.float64, generator=torch.Generator().manual_seed(seed))


def stacked(*states: torch.Tensor) -> torch.Tensor:
    return torch.stack(states, 1)


@pytest.mark.parametrize("name", NAMES)
def test_a_copy_turned_and_scaled_is_the_same(name: str) -> None:
    rows = random(200, 6) * torch.tensor([3.0, 2, 2, 1, 1, 0.5])
    turn = torch.linalg.qr(random(6, 6, seed=1)).Q
    made = comparison(name, distance="cosine") if name == "rsa" else comparison(name)
    found = made.between(stacked(rows, 2.5 * rows @ turn, random(200, 6, seed=2)))
    np.testing.assert_allclose(found[:2, :2], 1, atol=1e-9)
    np.testing.assert_allclose(np.diagonal(found), 1, atol=1e-9)
    assert (found[:2, 2] < 0.9).all()
    assert (found <= 1 + 1e-9).all()
    if name != "pwcca":  # whose weights depend on the columns of the first side
        np.testing.assert_allclose(found[0], found[1], atol=1e-9)


@pytest.mark.parametrize("name", ["cka", "svcca", "pwcca", "procrustes"])
def test_a_shift_changes_nothing(name: str) -> None:
    rows = random(100, 6)
    found = comparison(name).between(stacked(rows, 3 * rows + 10))
    np.testing.assert_allclose(found, 1, atol=1e-9)


@pytest.mark.parametrize("name", NAMES)
def test_the_order_of_tokens_does_not_matter(name: str) -> None:
    states = stacked(random(120, 6), random(120, 6, seed=3))
    states[:, 1] += states[:, 0]
    order = torch.randperm(120, generator=torch.Generator().manual_seed(5))
    made = comparison(name)
    np.testing.assert_allclose(made.between(states), made.between(states[order]), atol=1e-9)


@pytest.mark.parametrize("name", NAMES)
def test_two_models_of_other_widths(name: str) -> None:
    """Columns of zeros say nothing; the second set may have other depths."""
    states = stacked(random(80, 6), random(80, 6, seed=1))
    wide = torch.cat([states, torch.zeros(80, 2, 3)], -1)[:, :1]
    made = comparison(name, **({"distance": "cosine"} if name == "rsa" else {}))
    found = made.between(states, wide)
    assert found.shape == (2, 1)
    np.testing.assert_allclose(found[:, 0], made.between(states)[:, 0], atol=1e-9)


@pytest.mark.parametrize("name", NAMES)
def test_standardized_states_ignore_the_scale_of_dimensions(name: str) -> None:
    rows = random(100, 6)
    scaled = rows * torch.tensor([1000.0, 1, 1, 1, 1, 0.01])
    found = comparison(name, standardize=True).between(stacked(rows, scaled))
    np.testing.assert_allclose(found, 1, atol=1e-9)


@pytest.mark.parametrize("name", [*NAMES, "cka_exact"])
def test_identity_blocks_and_merging(name: str) -> None:
    noise = random(16, 16).float()
    blocks = [lambda h: h, lambda h: 3 * h, lambda h: torch.sin(h @ noise), lambda h: h]
    model = measuring.planted(16, blocks)
    found = measuring.measure(model, name, TEXTS)
    matrix = found[name]
    assert matrix.shape == (5, 5)
    np.testing.assert_allclose(matrix[:3, :3], 1, atol=1e-6)
    np.testing.assert_allclose(matrix[3:, 3:], 1, atol=1e-6)
    assert (matrix[:3, 3:] < 0.9).all()
    np.testing.assert_array_equal(found[f"{name}_cluster"], [0, 0, 0, 1, 1])
    fixed = measuring.measure(model, name, TEXTS, options={name: {"clusters": 2}})
    np.testing.assert_array_equal(fixed[f"{name}_cluster"], [0, 0, 0, 1, 1])


@pytest.mark.parametrize("name", [*NAMES, "cka_exact"])
def test_padding_and_merging(name: str) -> None:
    model = measuring.tiny("llama")
    measuring.assert_merged_is_single(model, name)
    measuring.assert_padding_is_nothing(model, name)


@pytest.mark.parametrize("name", [*NAMES, "cka_exact"])
def test_too_few_tokens(name: str) -> None:
    found = measuring.measure(measuring.tiny("llama"), name, [[1, 2, 3]])
    assert np.isnan(found[name]).all()
    assert (found[f"{name}_cluster"] == -1).all()


@pytest.mark.parametrize("name", NAMES)
def test_states_without_variance(name: str) -> None:
    found = comparison(name).between(stacked(random(60, 6), torch.ones(60, 6)))
    assert found[0, 0] == pytest.approx(1)
    if name != "mutual_neighbours":
        assert np.isnan(found[0, 1])


@pytest.mark.parametrize(
    ("name", "options", "words"),
    [
        ("cka", {"clusters": 9}, "clusters is 9; expected 1 to 4"),
        ("cka", {"batch": 3}, "batch is 3"),
        ("cka", {"sample": 3}, "sample is 3"),
        ("svcca", {"variance": 0}, "variance is 0"),
        ("rsa", {"distance": "taxi"}, "distance is 'taxi'"),
        ("mutual_neighbours", {"k": 0}, "k is 0"),
        ("cka_exact", {"clusters": 0}, "clusters is 0"),
    ],
)
def test_bad_options(name: str, options: dict[str, Any], words: str) -> None:
    model = measuring.tiny("llama")
    assert model.n_layers == 3
    with pytest.raises(InputError, match=words):
        measuring.measure(model, name, options={name: options})


def test_memory_limit() -> None:
    with pytest.raises(MemoryLimitError, match="use cka, or raise"):
        measuring.measure(
            measuring.tiny("llama"), "cka_exact", options={"cka_exact": {"memory_limit": 100}}
        )


def reference(name: str, x: np.ndarray, y: np.ndarray) -> float:
    """Each metric as its formula says, with nothing of ours."""
    n = len(x)
    if name.startswith("cka"):
        k, l = (z @ z.T * (1 - np.eye(n)) for z in (x, y))  # noqa: E741
        one = np.ones(n)

        def hsic(a: np.ndarray, b: np.ndarray) -> float:
            whole = (one @ a @ one) * (one @ b @ one) / ((n - 1) * (n - 2))
            return np.trace(a @ b) + whole - 2 / (n - 2) * (one @ a @ b @ one)

        return float(hsic(k, l) / np.sqrt(hsic(k, k) * hsic(l, l)))
    if name == "rsa":
        import pandas as pd

        upper = np.triu_indices(n, 1)
        one, two = ((1 - np.corrcoef(z))[upper] for z in (x, y))
        return float(pd.Series(one).rank().corr(pd.Series(two).rank()))
    x, y = x - x.mean(0), y - y.mean(0)
    if name == "procrustes":
        values = np.linalg.svd(x.T @ y, compute_uv=False)
        return float(values.sum() / np.linalg.norm(x) / np.linalg.norm(y))
    u, s, _ = np.linalg.svd(x, full_matrices=False)
    p = min(int((np.cumsum(s**2) / (s**2).sum() < 0.99).sum()) + 1, n // 10)
    v, t, _ = np.linalg.svd(y, full_matrices=False)
    q = min(int((np.cumsum(t**2) / (t**2).sum() < 0.99).sum()) + 1, n // 10)
    left, rho, _ = np.linalg.svd(u[:, :p].T @ v[:, :q], full_matrices=False)
    if name == "svcca":
        return float(rho.mean())
    weights = np.abs((u[:, :p] @ left).T @ x).sum(1)
    return float((weights * rho).sum() / weights.sum())


@pytest.mark.parametrize("family", measuring.FAMILIES[:3])
@pytest.mark.parametrize("name", ["cka", "cka_exact", "svcca", "pwcca", "rsa", "procrustes"])
def test_against_plain_hooks(family: str, name: str) -> None:
    model = measuring.tiny(family)
    found = measuring.measure(model, name, TEXTS)[name]
    stream = [measuring.states(model, text) for text in TEXTS]
    points = range(model.n_layers + 1)
    rows = [torch.cat([h[point][1:] for h in stream]).double().numpy() for point in points]
    expected = [[reference(name, one, other) for other in rows] for one in rows]
    # Equal tokens have ties in the first state, and these are broken by rounding in the reference.
    np.testing.assert_allclose(found, expected, atol=2e-5 if name[:3] in ("cka", "pro") else 3e-4)
