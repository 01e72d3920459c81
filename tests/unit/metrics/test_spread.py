"""Spread of increments: against plain hooks, and what a norm after the sublayer makes of it."""

from __future__ import annotations

import measuring
import numpy as np
import pytest
import torch

from layerlens.model.lensmodel import LensModel
from layerlens.model.tiny import tiny_model


def test_against_plain_hooks() -> None:
    model = measuring.tiny("llama")
    found = measuring.measure(model, ["attn_spread", "mlp_spread", "residual_norm"])
    for part, name in (("attn", "self_attn"), ("mlp", "mlp")):
        for layer, block in enumerate(model.hf.model.layers):
            added: list[torch.Tensor] = []

            def see(_, args, output, added=added) -> None:
                added.append((output[0] if isinstance(output, tuple) else output)[0])

            hook = block.get_submodule(name).register_forward_hook(see)
            for text in measuring.TEXTS:
                with torch.inference_mode():
                    model.hf(torch.tensor([text]), use_cache=False)
            hook.remove()
            norms = torch.cat([a[1:].double().norm(dim=-1) for a in added])
            wanted = float(norms.std(correction=0) / norms.mean())
            np.testing.assert_allclose(found[f"{part}_spread"][layer], wanted, rtol=1e-4)
            largest = max(float(a.abs().max()) for a in added)
            np.testing.assert_allclose(found[f"{part}_spread_largest"][layer], largest, rtol=1e-4)
    before = torch.cat([measuring.states(model, text)[0][1:] for text in measuring.TEXTS])
    sizes = before.double().norm(dim=-1)
    wanted = float(sizes.std(correction=0) / sizes.mean())
    np.testing.assert_allclose(found["attn_spread_chance"][0], wanted, rtol=1e-4)


def test_a_norm_after_the_sublayer_holds_the_size() -> None:
    """Norms of gain 1 after both sublayers: every increment is as long as the root of the width."""
    model = LensModel.wrap(tiny_model("gemma2", seed=1), None, name="peri", prove=False)
    with torch.no_grad():
        for block in model.hf.model.layers:
            block.post_attention_layernorm.weight.zero_()  # the gain is 1 + weight
            block.post_feedforward_layernorm.weight.zero_()
    names = ["attn_spread", "mlp_spread", "attn_norm", "mlp_norm"]
    found = measuring.measure(model, names)
    for part in ("attn", "mlp"):
        assert (found[f"{part}_spread"] < 1e-3).all()
        np.testing.assert_allclose(found[f"{part}_norm"], model.d_model**0.5, rtol=1e-3)
    plain = measuring.measure(measuring.tiny("llama"), names)
    assert (plain["mlp_spread"] > 0.05).all()


@pytest.mark.parametrize("family", measuring.FAMILIES)
def test_padding_and_merging_change_nothing(family: str) -> None:
    model = measuring.tiny(family)
    measuring.assert_padding_is_nothing(model, ["attn_spread", "mlp_spread"])
    measuring.assert_merged_is_single(model, ["attn_spread", "mlp_spread"])


def test_a_sublayer_that_adds_nothing_has_no_spread() -> None:
    model = LensModel.wrap(tiny_model("llama", seed=1), None, name="still", prove=False)
    measuring.identity(model, 1)
    found = measuring.measure(model, "mlp_spread")
    assert np.isnan(found["mlp_spread"][1]) and np.isfinite(found["mlp_spread"][0])
