"""Metrics of weights: known spectra, fused and stacked matrices, a model with planted weights."""

from __future__ import annotations

from typing import Any

import measuring
import numpy as np
import pytest
import torch
import xarray as xr
from torch import Tensor

import layerlens as ll
from layerlens.errors import InputError
from layerlens.metrics.projections import embeddings, projections
from layerlens.metrics.spectra import (
    eigenvalues,
    fit_power_law,
    hill,
    known_eigenvalues,
    window_eigenvalues,
)
from layerlens.model.lensmodel import LensModel
from layerlens.model.tiny import tiny_model

RANKS = ("weight_stable_rank", "weight_effective_rank", "weight_entropy", "weight_norm")
ALPHAS = ("weight_alpha", "weight_alpha_hill", "weight_farms")


def tiny(family: str, **how: object) -> LensModel:
    """A model of the test's own, whose weights it may change."""
    return LensModel.wrap(tiny_model(family, seed=3, **how), None, name=family, prove=False)


def of_weights(model: LensModel, *names: str, **how: Any) -> xr.Dataset:
    """What ll.layer_metrics says of weights."""
    return ll.layer_metrics(model, [1, 2], list(names), **how).data


def haar(n: int, rng: np.random.Generator) -> np.ndarray:
    """A random orthogonal matrix."""
    q, r = np.linalg.qr(rng.normal(size=(n, n)))
    return q * np.sign(np.diag(r))


def pareto(alpha: float, n: int, seed: int = 0) -> np.ndarray:
    """Quantities whose density falls with this exponent, ascending."""
    uniform = np.random.default_rng(seed).random(n)
    return np.sort((1 - uniform) ** (-1 / (alpha - 1)))


@pytest.mark.parametrize("shape", [(30, 50), (50, 30), (40, 40)])
def test_eigenvalues_are_squares_of_singular_values(shape: tuple[int, int]) -> None:
    weight = torch.randn(shape, generator=torch.Generator().manual_seed(0))
    expected = np.sort(torch.linalg.svdvals(weight.double()).numpy() ** 2)
    np.testing.assert_allclose(eigenvalues(weight), expected, rtol=1e-9)
    np.testing.assert_allclose(eigenvalues(weight.bfloat16()), expected, rtol=0.1)


@pytest.mark.parametrize(("columns", "half"), [(512, 2.135), (1024, 2.704), (2048, 3.461)])
def test_random_weights_of_three_shapes(columns: int, half: float) -> None:
    """Hill's exponent depends on the shape; that of square windows does not."""
    weight = torch.randn(512, columns, generator=torch.Generator().manual_seed(1))
    values = eigenvalues(weight)
    assert hill(values) == pytest.approx(half, rel=0.02)  # one draw of each
    assert hill(window_eigenvalues(weight, 128, 5, cover=False)) == pytest.approx(2.12, abs=0.03)
    assert hill(window_eigenvalues(weight, 128, 5, cover=True)) == pytest.approx(2.12, abs=0.03)
    law = fit_power_law(values)
    assert law.poor and law.distance > 0.1  # they have no heavy tail, and it says so
    rank = values.sum() / values[-1]
    assert rank == pytest.approx(512 * columns / (512**0.5 + columns**0.5) ** 2, rel=0.03)


@pytest.mark.parametrize("alpha", [2.5, 4.0])
def test_a_planted_power_law_is_found(alpha: float) -> None:
    law = fit_power_law(pareto(alpha, 2000))
    assert abs(law.alpha - alpha) < 3 * law.error
    assert law.tail > 1000 and law.distance < 0.02 and not law.poor
    # Among others that follow no law, too: the tail begins where it does.
    body = np.random.default_rng(1).uniform(0.01, 1, 2000)
    mixed = fit_power_law(np.sort(np.concatenate([body, pareto(alpha, 2000)])))
    assert abs(mixed.alpha - alpha) < 4 * mixed.error
    assert mixed.xmin == pytest.approx(1, abs=0.1)


def test_a_planted_power_law_in_a_matrix() -> None:
    """Pareto eigenvalues between random orthogonal matrices; scaling changes nothing."""
    rng = np.random.default_rng(2)
    planted = pareto(3.0, 400)
    weight = haar(400, rng) @ np.diag(planted**0.5) @ haar(400, rng)
    values = eigenvalues(torch.from_numpy(weight))
    np.testing.assert_allclose(values, planted, rtol=1e-8)
    law, scaled = fit_power_law(values), fit_power_law(eigenvalues(torch.from_numpy(7 * weight)))
    assert abs(law.alpha - 3) < 3 * law.error
    assert scaled.alpha == pytest.approx(law.alpha, rel=1e-8)
    assert scaled.xmin == pytest.approx(49 * law.xmin, rel=1e-8)
    assert hill(values) == pytest.approx(hill(planted), rel=1e-8)


def test_fits_by_their_definition() -> None:
    """Every beginning of the tail in a plain loop."""
    values = np.sort(np.random.default_rng(4).lognormal(size=60))
    best = (np.inf, np.nan, np.nan)
    for i in range(len(values) - 1):
        tail = values[i:]
        n = len(tail)
        alpha = 1 + n / np.log(tail / tail[0]).sum()
        law = 1 - (tail / tail[0]) ** (1 - alpha)
        best = min(best, (float(np.abs(law - np.arange(n) / n).max()), alpha, tail[0]))
    found = fit_power_law(values)
    assert (found.distance, found.alpha, found.xmin) == pytest.approx(best, rel=1e-9)
    tail = values[30:]
    assert hill(values) == pytest.approx(1 + 30 / np.log(tail / values[30]).sum(), rel=1e-12)


def test_what_cannot_be_fitted_is_nan() -> None:
    for values in (np.zeros(20), np.ones(20), np.arange(1.0, 9)):
        assert np.isnan(fit_power_law(values).alpha)
        assert fit_power_law(values).poor
    assert np.isnan(hill(np.concatenate([np.zeros(15), np.arange(5.0)])))


def test_windows_cover_the_matrix() -> None:
    weight = torch.randn(20, 70, generator=torch.Generator().manual_seed(0))
    every = window_eigenvalues(weight, 16, 2, cover=True)
    assert len(every) == 2 * 5 * 16  # two along the rows, and five that reach 70 columns
    assert len(window_eigenvalues(weight, 16, 2, cover=False)) == 2 * 2 * 16
    one = window_eigenvalues(weight[:, :20], 64, 5, cover=True)  # smaller than a window
    np.testing.assert_allclose(one, eigenvalues(weight[:, :20]), rtol=1e-6)


def test_identity_rank_one_and_zero() -> None:
    """Planted in a model: each metric knows the answer."""
    model = tiny("llama", num_attention_heads=4, num_key_value_heads=4)
    block = model.hf.model.layers[1]
    d = model.d_model
    with torch.no_grad():
        block.self_attn.q_proj.weight.copy_(3 * torch.eye(d))
        block.self_attn.k_proj.weight.copy_(torch.outer(torch.arange(1.0, d + 1), torch.ones(d)))
        block.self_attn.v_proj.weight.zero_()
    data = of_weights(model, *RANKS, *ALPHAS).sel(layer=1)
    expected = {
        "weight_stable_rank": (d, 1, np.nan),
        "weight_effective_rank": (d, 1, np.nan),
        "weight_entropy": (1, 0, np.nan),
        "weight_norm": (3 * d**0.5, (d * sum(i * i for i in range(1, d + 1))) ** 0.5, 0),
        "weight_norm_rms": (3 / d**0.5, (sum(i * i for i in range(1, d + 1)) / d) ** 0.5, 0),
        "weight_norm_spectral": (3, (d * sum(i * i for i in range(1, d + 1))) ** 0.5, 0),
        "weight_alpha": (np.nan, np.nan, np.nan),
        "weight_alpha_poor": (1, 1, 1),
        "weight_alpha_hill": (np.nan, np.nan, np.nan),
    }
    for name, values in expected.items():
        found = data[name].sel(projection=["q", "k", "v"])
        np.testing.assert_allclose(found, values, rtol=1e-6, atol=1e-6, err_msg=name)


def test_numbers_of_a_model_are_those_of_its_matrices() -> None:
    model = measuring.tiny("llama")
    data = of_weights(model, *RANKS, "weight_alpha", "weight_farms")
    weight = model.hf.model.layers[2].mlp.gate_proj.weight.detach().double()
    sigma = torch.linalg.svdvals(weight).numpy()
    share = sigma / sigma.sum()
    squares = sigma**2 / (sigma**2).sum()
    expected = {
        "weight_norm": float(weight.norm()),
        "weight_norm_spectral": sigma[0],
        "weight_stable_rank": (sigma**2).sum() / sigma[0] ** 2,
        "weight_effective_rank": np.exp(-(share * np.log(share)).sum()),
        "weight_entropy": -(squares * np.log(squares)).sum() / np.log(len(sigma)),
        "weight_alpha": fit_power_law(sigma[::-1] ** 2).alpha,
    }
    for name, value in expected.items():
        found = data[name].sel(layer=2, projection="gate").item()
        assert found == pytest.approx(value, rel=1e-6), name
    assert list(data.projection.values) == ["q", "k", "v", "o", "gate", "up", "down"]


def rows_by_hand(family: str, weight: Tensor, heads: int) -> dict[str, Tensor]:
    """How each family itself cuts its fused matrix, from its own modelling code."""
    if family in ("gpt2", "mpt"):  # split along the width
        return dict(zip("qkv", weight.chunk(3), strict=True))
    if family in ("gpt_neox", "bloom"):  # q, k and v of each head
        parts = weight.view(heads, 3, -1, weight.shape[1])
        return {name: parts[:, i].flatten(0, 1) for i, name in enumerate("qkv")}
    if family == "falcon":  # all of q, and one k and v
        width = weight.shape[0] // (heads + 2)
        return dict(zip("qkv", weight.split([heads * width, width, width]), strict=True))
    parts = weight.view(4, 3, -1, weight.shape[1])  # codegen: q, v, k in four parts
    return {name: parts[:, i].flatten(0, 1) for i, name in enumerate("qvk")}


@pytest.mark.parametrize("family", ["gpt2", "mpt", "gpt_neox", "bloom", "falcon", "codegen"])
def test_fused_matrices_are_split(family: str) -> None:
    model = tiny(family)
    block = model.hf.get_submodule(model.anatomy.blocks[1].path)
    fused = next(
        module.weight.T if family == "gpt2" else module.weight
        for name, module in block.named_modules()
        if name.split(".")[-1] in ("c_attn", "Wqkv", "query_key_value", "qkv_proj")
    )
    found = {part.name: part.weights for part in projections(model, 1)}
    expected = rows_by_hand(family, fused.detach(), model.n_heads)
    assert list(found) == ["q", "k", "v", "o", "up", "down"]
    for name, weight in expected.items():
        torch.testing.assert_close(found[name][0], weight, rtol=0, atol=0)


def test_gate_and_up_are_split() -> None:
    model = tiny("phi3")
    found = {part.name: part.weights[0] for part in projections(model, 0)}
    whole = model.hf.model.layers[0].mlp.gate_up_proj.weight.detach()
    assert torch.equal(torch.cat([found["gate"], found["up"]]), whole)
    assert torch.equal(
        torch.cat([found["q"], found["k"], found["v"]]),
        model.hf.model.layers[0].self_attn.qkv_proj.weight.detach(),
    )


def test_what_cannot_be_told_apart_stays_together() -> None:
    """Persimmon normalises q and k after its fused matrix."""
    names = [part.name for part in projections(tiny("persimmon"), 0)]
    assert names == ["qkv", "o", "up", "down"]


def test_experts_are_a_mean_with_a_range() -> None:
    model = tiny("mixtral")
    data = of_weights(model, "weight_stable_rank")
    experts = model.hf.model.layers[1].mlp.experts.down_proj.detach()
    ranks = []
    for expert in experts:
        sigma = torch.linalg.svdvals(expert.double())
        ranks.append(float((sigma**2).sum() / sigma[0] ** 2))
    cell = data.sel(layer=1, projection="experts.down")
    assert cell.weight_stable_rank.item() == pytest.approx(np.mean(ranks), rel=1e-6)
    assert cell.weight_stable_rank_smallest.item() == pytest.approx(min(ranks), rel=1e-6)
    assert cell.weight_stable_rank_largest.item() == pytest.approx(max(ranks), rel=1e-6)


def test_transposed_matrices_have_the_same_numbers() -> None:
    """GPT-2 keeps [in, out]; the anatomy turns it."""
    model = tiny("gpt2")
    up = next(part for part in projections(model, 0) if part.name == "up").weights[0]
    assert up.shape == (128, 32)
    np.testing.assert_allclose(eigenvalues(up), eigenvalues(up.T.contiguous()), rtol=1e-10)


def test_tied_embeddings_count_once() -> None:
    tied, own = tiny("gpt2"), tiny("gpt_neox")
    assert list(embeddings(tied)) == ["embed"]
    assert list(embeddings(own)) == ["embed", "unembed"]
    data = of_weights(own, "weight_norm")
    weights = dict(own.hf.named_parameters())
    norms = [weights[name].norm() for name in ("gpt_neox.embed_in.weight", "lm_head.weight")]
    found = data.weight_norm_embedding
    np.testing.assert_allclose(found, [norm.item() for norm in norms], rtol=1e-6)


def test_changed_weights_are_seen() -> None:
    model = tiny("llama")
    weight = model.hf.model.layers[0].mlp.down_proj.weight
    first = known_eigenvalues(model, "it", weight.detach())
    assert known_eigenvalues(model, "it", weight.detach()) is first
    weight.data[0, 0] += 0.01  # which PyTorch does not count as a change
    assert known_eigenvalues(model, "it", weight.detach())[-1] != first[-1]


def test_models_without_attention_have_their_own_names() -> None:
    data = of_weights(tiny("mamba"), "weight_norm")
    assert "mixer.in_proj" in data.projection.values
    assert np.isfinite(data.weight_norm.values).all()


def test_bad_input() -> None:
    model = measuring.tiny("llama")
    for options, words in (
        ({"window": 1}, "window is 1"),
        ({"steps": 0}, "steps 0"),
        ({"fit": "eye"}, "'hill' or 'mle', not 'eye'"),
    ):
        with pytest.raises(InputError, match=words):
            of_weights(model, "weight_farms", metric_options={"weight_farms": options})
