"""R-Sparse: against products by hand, where it is exact, and within its budget."""

from __future__ import annotations

from itertools import pairwise
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn

import layerlens as ll
from layerlens.errors import InputError
from layerlens.model.lensmodel import LensModel
from layerlens.model.tiny import tiny_model
from layerlens.run.sparse import Budget, Factors, sparse

from .. import by_hooks, without

TEXTS = without.TEXTS


def by_hand(weight: Tensor, x: Tensor, channels: int, rank: int) -> Tensor:
    """``X_S W^T + (X - X_S) (V S U)^T``, token by token."""
    u, s, v = torch.linalg.svd(weight.double(), full_matrices=False)
    low = u[:, :rank] @ torch.diag(s[:rank]) @ v[:rank]
    scale = (torch.diag(s[:rank]) @ v[:rank]).square().sum(0).sqrt()
    found = []
    for row in x.double():
        size = row.abs() * (scale if rank else 1)
        kept = torch.zeros_like(row)
        kept[size.argsort(descending=True)[:channels]] = 1
        found.append(weight.double() @ (row * kept) + low @ (row * (1 - kept)))
    return torch.stack(found)


@pytest.mark.parametrize(("sparsity", "split"), [(0.5, 0.5), (0.25, 0.3), (0.7, 1.0), (0.4, 0.0)])
def test_a_product_equals_the_formula(sparsity: float, split: float) -> None:
    torch.manual_seed(0)
    layer = nn.Linear(24, 40)
    x = torch.randn(7, 24)
    budget = Budget.of(layer.weight, sparsity, split)
    kept = int((1 - sparsity) * 24 * split + 1e-9)
    rank = int((24 * 40 * (1 - sparsity) - kept * 40) / 64)
    assert (budget.channels, budget.rank) == (kept, rank)
    assert budget.share == pytest.approx((kept * 40 + rank * 64) / 960)
    assert budget.share <= 1 - sparsity
    with torch.no_grad():
        with sparse([Factors(layer, layer.weight)], "sparse", sparsity, split, 0):
            found = layer(x)
        wanted = by_hand(layer.weight, x, kept, rank) + layer.bias
        torch.testing.assert_close(found.double(), wanted.double(), atol=1e-5, rtol=1e-5)
        plain = layer(x)  # afterwards it is what it was
    assert not torch.allclose(plain, found)


def test_more_rank_leaves_less_error_and_a_matrix_of_low_rank_none() -> None:
    torch.manual_seed(0)
    weight = torch.randn(30, 20)
    errors = [
        float((Factors(nn.Linear(20, 30), weight).low_rank(r) - weight).norm()) for r in range(21)
    ]
    assert all(a > b for a, b in pairwise(errors))
    assert errors[-1] < 1e-4
    layer = nn.Linear(20, 30, bias=False)
    x = torch.randn(5, 20)
    with torch.no_grad():
        layer.weight.copy_(torch.randn(30, 2) @ torch.randn(2, 20))
        clean = layer(x)
        for way in ("sparse", "random"):  # rank 2 is enough, whatever the channels
            with sparse([Factors(layer, layer.weight)], way, 0.5, 0.5, 0):
                torch.testing.assert_close(layer(x), clean, atol=1e-4, rtol=1e-4)
        with sparse([Factors(layer, layer.weight)], "channels", 0.5, 0.5, 0):
            assert not torch.allclose(layer(x), clean, atol=1e-2)


@pytest.mark.parametrize("family", without.FAMILIES)
@pytest.mark.parametrize("batch_size", [None, 1])
def test_each_layer_equals_its_formula_by_hooks(family: str, batch_size: int | None) -> None:
    model = by_hooks.wrapped(family)
    found = ll.sparse_layers(
        model, TEXTS, sparsity=[0.3, 0.6], layers=[0, 2], verify=2, batch_size=batch_size
    )
    assert found.checks.ok
    assert found.data.attrs["complete"] == 1
    hf = by_hooks.plain(family)
    clean = [without.run(hf, ids)[1] for ids in TEXTS]
    for layer in (0, 2):
        for sparsity in (0.3, 0.6):
            handles = [
                module.register_forward_hook(_formula(sparsity))
                for module in by_hooks.blocks(hf)[layer].modules()
                if isinstance(module, nn.Linear) or type(module).__name__ == "Conv1D"
            ]
            other = [without.run(hf, ids)[1] for ids in TEXTS]
            for handle in handles:
                handle.remove()
            pairs = list(zip(clean, other, TEXTS, strict=True))
            here = found.data.sel(layer=layer, sparsity=sparsity)
            kls = torch.cat([without.kl(a, b)[1:] for a, b, _ in pairs])
            assert float(here.kl_sparse) == pytest.approx(float(kls.mean()), abs=1e-5, rel=1e-2)
            change = [(without.loss(b, t) - without.loss(a, t))[1:] for a, b, t in pairs]
            wanted = float(torch.cat(change).mean())
            assert float(here.loss_change_sparse) == pytest.approx(wanted, abs=1e-4)
            assert 0.5 * (1 - sparsity) < float(here.computed) <= 1 - sparsity


def _formula(sparsity: float) -> Any:
    def hook(module: Any, args: Any, output: Tensor) -> Tensor:
        weight = module.weight.T if type(module).__name__ == "Conv1D" else module.weight
        out, width = weight.shape
        kept = int((1 - sparsity) * width * 0.5 + 1e-9)
        rank = int((out * width * (1 - sparsity) - kept * out) / (out + width) + 1e-9)
        x = args[0].reshape(-1, width)
        bias = 0 if module.bias is None else module.bias.double()
        return (by_hand(weight, x, kept, rank) + bias).to(output.dtype).reshape(output.shape)

    return hook


def test_nothing_saved_on_channels_changes_nothing() -> None:
    model = by_hooks.wrapped("llama")
    before = sum(len(module._forward_hooks) for module in model.hf.modules())
    data = ll.sparse_layers(model, TEXTS, sparsity=0.0, split=1.0).data
    assert data.kl_sparse.dims == ("layer",)
    for way in ("sparse", "channels", "random"):
        np.testing.assert_allclose(data[f"kl_{way}"], 0, atol=1e-9)
    assert (data.computed == 1).all()
    assert sum(len(module._forward_hooks) for module in model.hf.modules()) == before


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"sparsity": 1.0}, "below 1"),
        ({"sparsity": []}, "below 1"),
        ({"sparsity": [0.5, 0.5]}, "each once"),
        ({"split": 1.5}, "split"),
        ({"layers": [9]}, "9"),
        ({"skip_first": 99}, "counts"),
    ],
)
def test_what_does_not_fit_is_refused(options: dict[str, Any], words: str) -> None:
    with pytest.raises(InputError, match=words):
        ll.sparse_layers(by_hooks.wrapped("gpt2"), TEXTS, **options)


def test_stacked_experts_are_refused() -> None:
    model = LensModel.wrap(tiny_model("mixtral", seed=1), None, name="experts", prove=False)
    with pytest.raises(InputError, match="several experts"):
        ll.sparse_layers(model, TEXTS)
