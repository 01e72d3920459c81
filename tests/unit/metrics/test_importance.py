"""LIM and ZD: against plain hooks, and for weights whose distribution is known."""

from __future__ import annotations

import math

import measuring
import numpy as np
import pytest
import torch
from torch import Tensor

import layerlens as ll
from layerlens.errors import InputError, SiteError
from layerlens.model.lensmodel import LensModel
from layerlens.model.tiny import tiny_model


@pytest.mark.parametrize("family", measuring.FAMILIES)
def test_lim_equals_plain_hooks_and_is_block_influence_less_one(family: str) -> None:
    model = measuring.tiny(family)
    found = measuring.measure(model, ["lim", "block_influence"])
    cosines = []
    for text in measuring.TEXTS:
        h = torch.stack(measuring.states(model, text))[:, 1:].double()
        cosines.append(torch.cosine_similarity(h[:-1], h[1:], dim=-1))
    wanted = -torch.cat(cosines, 1).mean(1)
    np.testing.assert_allclose(found["lim"], wanted, atol=1e-6)
    np.testing.assert_allclose(found["lim"] + 1, found["block_influence"], atol=1e-12)


def test_lim_ignores_padding_and_sharding() -> None:
    model = measuring.tiny("gpt2")
    measuring.assert_padding_is_nothing(model, "lim")
    measuring.assert_merged_is_single(model, "lim")


def drawn(draw: torch.distributions.Distribution, scale: float, shift: float) -> LensModel:
    """A tiny Llama whose matrices are drawn from a distribution."""
    hf = tiny_model("llama", hidden_size=128, intermediate_size=256)
    torch.manual_seed(0)
    with torch.no_grad():
        for layer in hf.model.layers:
            for module in layer.modules():
                if isinstance(module, torch.nn.Linear):
                    module.weight.copy_(scale * draw.sample(module.weight.shape) + shift)
    return LensModel.wrap(hf, None, prove=False)


KNOWN = [
    (torch.distributions.Normal(0.0, 1.0), 0.15866, 0.31731),
    (torch.distributions.Laplace(0.0, 1.0), math.exp(-math.sqrt(2)) / 2, math.exp(-math.sqrt(2))),
    (torch.distributions.Uniform(-1.0, 1.0), 0.21132, 0.42265),
]


@pytest.mark.parametrize(("draw", "one", "two"), KNOWN)
@pytest.mark.parametrize("pool", ["layer", "module"])
def test_zd_of_known_distributions(
    draw: torch.distributions.Distribution, one: float, two: float, pool: str
) -> None:
    model = drawn(draw, 0.02, 0.01)
    options = {"zd": {"pool": pool}}
    found = ll.layer_metrics(model, [1, 2], ["zd"], metric_options=options).data.zd.values
    np.testing.assert_allclose(found, one, atol=5e-3)
    options = {"zd": {"pool": pool, "two_sided": True}}
    found = ll.layer_metrics(model, [1, 2], ["zd"], metric_options=options).data.zd.values
    np.testing.assert_allclose(found, two, atol=8e-3)


def plain(weights: list[Tensor], two_sided: bool) -> float:
    """The share from the definition."""
    flat = torch.cat([weight.detach().flatten().double() for weight in weights])
    z = (flat - flat.mean()) / flat.std(correction=0)
    return float(((z.abs() if two_sided else z) > 1).double().mean())


@pytest.mark.parametrize("two_sided", [False, True])
@pytest.mark.parametrize("pool", ["layer", "module"])
@pytest.mark.parametrize("family", ["llama", "gpt2", "gpt_neox"])
def test_zd_equals_the_definition(family: str, pool: str, two_sided: bool) -> None:
    model = measuring.tiny(family)
    options = {"zd": {"pool": pool, "two_sided": two_sided}}
    found = ll.layer_metrics(model, [1, 2], ["zd"], metric_options=options).data.zd.values
    for layer, block in enumerate(model.anatomy.blocks):
        modules = model.hf.get_submodule(block.path).modules()
        weights = [
            module.weight for module in modules if type(module).__name__ in ("Linear", "Conv1D")
        ]
        groups = [weights] if pool == "layer" else [[weight] for weight in weights]
        wanted = np.mean([plain(group, two_sided) for group in groups])
        assert found[layer] == pytest.approx(wanted, abs=1e-12)


def test_zd_is_the_same_shifted_and_scaled() -> None:
    draw = torch.distributions.Laplace(0.0, 1.0)
    a, b = (
        ll.layer_metrics(drawn(draw, *how), [1], ["zd"], skip_first=False).data.zd.values
        for how in ((1.0, 0.0), (8.0, 0.0))
    )
    np.testing.assert_array_equal(a, b)


def test_equal_weights_have_none_above() -> None:
    model = drawn(torch.distributions.Normal(0.0, 1.0), 0.0, 1.0)
    assert (ll.layer_metrics(model, [1, 2], ["zd"]).data.zd.values == 0).all()


def test_what_does_not_fit_is_refused() -> None:
    with pytest.raises(InputError, match="pool"):
        ll.layer_metrics(
            measuring.tiny("llama"), [1, 2], ["zd"], metric_options={"zd": {"pool": "model"}}
        )
    model = LensModel.wrap(tiny_model("llama"), None, prove=False)
    model.hf.model.layers[0].mlp.up_proj.weight = torch.nn.Parameter(
        torch.zeros(64, 32, dtype=torch.uint8), requires_grad=False
    )
    with pytest.raises(SiteError, match="quantised"):
        ll.layer_metrics(model, [1, 2], ["zd"])
