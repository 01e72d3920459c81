"""ll.expert_use: planted routers, every family that has some, padding, counts by hand."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import pytest
import torch

import layerlens as ll
from layerlens.analyses.measuring.expert_counts import (
    balance,
    even_usage,
    information,
    shuffled_information,
    tokens_of_experts,
    usage,
)
from layerlens.errors import InputError, ModelError
from layerlens.model.lensmodel import LensModel
from layerlens.model.tiny import tiny_model
from layerlens.run.routers import find_routers
from layerlens.views.answer_cell import place_of

TEXTS = [[5, 6, 7, 8, 9, 5, 6], [9, 6, 5, 3]]
FAMILIES = ["mixtral", "qwen2_moe", "qwen3_moe", "deepseek_v3", "gpt_oss", "olmoe"]
ODD = ["llama4_text", "dbrx", "granitemoe"]
"""A choice that is said by zeros; experts alone that say it; a router of another kind."""


def tiny(family: str, **overrides: Any) -> LensModel:
    return LensModel.wrap(
        tiny_model(family, seed=1, **overrides), None, name=f"tiny {family}", prove=False
    )


def naive(model: LensModel, text: list[int]) -> list[np.ndarray]:
    """The experts of each token of each sparse layer, by hooks on transformers' routers."""
    found: list[np.ndarray] = []
    handles = [
        module.register_forward_hook(lambda _, args, out: found.append(out[2].sort(-1)[0].numpy()))
        for name, module in model.hf.named_modules()
        if type(module).__name__.lower().endswith("topkrouter")
    ]
    with torch.inference_mode():
        model.hf(torch.tensor([text]), use_cache=False)
    for handle in handles:
        handle.remove()
    return found


@pytest.mark.parametrize("family", FAMILIES)
def test_against_hooks_on_the_routers(family: str) -> None:
    model = tiny(family)
    routers = find_routers(model)
    assert all((r.n_experts, r.n_chosen) == (4, 2) for r in routers.values())
    alone = ll.expert_use(model, TEXTS[0])
    expected = naive(model, TEXTS[0])
    assert len(expected) == len(routers)
    for layer, experts in zip(routers, expected, strict=True):
        np.testing.assert_array_equal(np.sort(alone.data.chosen[layer], -1), experts)
        load = np.bincount(experts.ravel(), minlength=4) / experts.size
        np.testing.assert_allclose(alone.data.expert_load[layer], load)
    assert alone.checks.ok
    assert {check.name for check in alone.checks} == {"tokens", "choices"}


def test_choices_that_are_sorted_by_expert() -> None:
    """JetMoE: the MLP's experts, whose weights add up, not those of its attention."""
    model = tiny("jetmoe")
    expected: list[torch.Tensor] = []
    handles = [
        layer.mlp.router.layer.register_forward_hook(
            lambda _, args, out: expected.append(out.float().topk(2))
        )
        for layer in model.hf.model.layers
    ]
    with torch.inference_mode():
        model.hf(torch.tensor([TEXTS[0]]), use_cache=False)
    for handle in handles:
        handle.remove()
    found = ll.expert_use(model, TEXTS[0])
    for layer, top in enumerate(expected):
        np.testing.assert_array_equal(found.data.chosen[layer], top.indices)
        weight = torch.zeros(len(TEXTS[0]), 4).scatter(1, top.indices, top.values.softmax(-1))
        np.testing.assert_allclose(found.data.expert_weight[layer], weight.mean(0), rtol=1e-5)
    assert found.checks.ok


@pytest.mark.parametrize("side", ["right", "left"])
def test_padding_is_not_counted(side: str) -> None:
    model = tiny("mixtral")
    tokens = model.tokens(TEXTS, padding_side=side)
    both = ll.expert_use(model, tokens).data
    one_by_one = ll.expert_use(model, TEXTS, batch_size=1).data
    np.testing.assert_allclose(both.expert_load, one_by_one.expert_load)
    np.testing.assert_allclose(both.expert_weight, one_by_one.expert_weight, atol=1e-5)
    lengths = [len(text) for text in TEXTS]
    each = [ll.expert_use(model, text).data.expert_load.values for text in TEXTS]
    mean = sum(n * load for n, load in zip(lengths, each, strict=True)) / sum(lengths)
    np.testing.assert_allclose(both.expert_load, mean)
    assert both.attrs["tokens"] == sum(lengths)
    assert "chosen" not in both


@pytest.mark.parametrize("family", ODD)
def test_other_ways_to_say_it(family: str) -> None:
    result = ll.expert_use(tiny(family), TEXTS)
    np.testing.assert_allclose(result.data.expert_load.sum("expert"), 1)
    np.testing.assert_allclose(result.data.expert_weight.sum("expert"), 1)
    assert result.checks.ok


def test_a_planted_router_is_found_out() -> None:
    """Odd tokens to expert 2, even ones to expert 0: by the sign of one direction."""
    model = tiny("mixtral", num_experts_per_tok=1)
    hf = model.hf
    with torch.no_grad():
        hf.model.embed_tokens.weight.zero_()
        hf.model.embed_tokens.weight[0::2, 0] = 1
        hf.model.embed_tokens.weight[1::2, 0] = -1
        for layer in hf.model.layers:
            layer.self_attn.o_proj.weight.zero_()
            layer.mlp.experts.down_proj.zero_()
            layer.post_attention_layernorm.weight.fill_(1)
            layer.mlp.gate.weight.zero_()
            layer.mlp.gate.weight[0, 0] = 1
            layer.mlp.gate.weight[2, 0] = -1
    text = [4, 6, 7, 4, 7, 8, 4, 9, 7, 6]
    data = ll.expert_use(model, text).data
    odd = np.array([index % 2 for index in text])
    for layer in range(model.n_layers):
        np.testing.assert_array_equal(data.chosen[layer, :, 0], 2 * odd)
        np.testing.assert_allclose(data.expert_load[layer], [0.6, 0, 0.4, 0])
        entropy = -(0.6 * math.log(0.6) + 0.4 * math.log(0.4))
        assert float(data.balance[layer]) == pytest.approx(entropy / math.log(4))
        assert float(data.token_information[layer]) == pytest.approx(entropy)
        assert float(data.token_information_chance[layer]) < 0.75 * entropy
        assert float(data.idle[layer]) == 0.5
        assert float(data.largest_load[layer]) == pytest.approx(2.4)
        assert data.top_token[layer, 2].values.tolist()[:2] == [7, -1]
        assert data.top_token[layer, 0].values.tolist()[:2] == [4, -1]
        assert float(data.top_token_lift[layer, 2, 0]) == pytest.approx(1 / 0.4)


def test_a_cell_opens_the_tokens_of_its_expert() -> None:
    model = tiny("olmoe")
    result = ll.expert_use(model, TEXTS, least=1)
    place = place_of(result.data, {"array": "expert_load", "index": [1, 2]})
    found = ll.expert_use.open(model, TEXTS, {"least": 1}, place)
    chosen = [naive(model, text)[1] for text in TEXTS]
    marks = [[float(2 in row) for row in experts] for experts in chosen]
    assert sorted([mark for _, mark in row] for row in found.texts) == sorted(marks)
    total = int(sum(map(sum, marks)))
    assert found.title == f"Expert 2 of layer 1: {total} of 11 tokens"
    assert total == round(float(result.data.expert_load[1, 2]) * 22)
    rows = found.tables[0].rows
    assert sum(row[1] * row[2] for row in rows) == pytest.approx(total)  # type: ignore[operator]


def test_equal_scores_go_to_the_first_and_weigh_the_same() -> None:
    model = tiny("mixtral")
    with torch.no_grad():
        for layer in model.hf.model.layers:
            layer.mlp.gate.weight.zero_()
    data = ll.expert_use(model, TEXTS[0]).data
    chosen = data.chosen.values
    assert (chosen == chosen[:, :1]).all()
    np.testing.assert_allclose(np.sort(data.expert_weight)[:, -2:], 0.5)


def test_layers_without_a_router_are_missing() -> None:
    model = tiny("deepseek_v3")
    result = ll.expert_use(model, TEXTS)
    assert np.isnan(result.data.expert_load[0]).all()
    assert np.isfinite(result.data.expert_load[1:]).all()
    assert "Layers 0 have no router" in result.data.attrs["notes"]


def test_counts_by_hand() -> None:
    even = np.array([[0, 1], [2, 3], [1, 0], [3, 2]])
    found = usage(even, np.ones((4, 2)), 4)
    assert float(found["balance"]) == pytest.approx(1)
    assert float(found["largest_load"]) == 1
    assert balance(np.array([1.0, 0, 0])) == 0
    weighed = usage(np.array([[0, 1]]), np.array([[0.75, 0.25]]), 2)
    np.testing.assert_allclose(weighed["expert_weight"], [0.75, 0.25])
    labels = np.array([1, 1, 2, 2])
    assert information(labels, labels) == pytest.approx(math.log(2))
    assert information(labels, np.array([0, 1, 0, 1])) == pytest.approx(0)
    assert 0 < shuffled_information(labels, labels, 0) < math.log(2)
    ids, lift = tokens_of_experts(np.array([5, 5, 8, 8]), np.array([[0], [0], [0], [1]]), 2, 2)
    assert ids[:, :2].tolist() == [[5, 8], [8, -1]]
    np.testing.assert_allclose(lift[:, 0], [1 / 0.75, 0.5 / 0.25])


def test_few_tokens_look_unbalanced_by_chance() -> None:
    few, many = (even_usage(n, 1, 8, 0) for n in (10, 2000))
    assert float(few["balance_chance"]) < 0.9 < 0.999 < float(many["balance_chance"])


def test_what_is_refused() -> None:
    with pytest.raises(
        ModelError, match="expert_use cannot be asked of tiny llama, which has no experts"
    ):
        ll.expert_use(tiny("llama"), TEXTS)
    with pytest.raises(InputError, match="least is 0"):
        ll.expert_use(tiny("mixtral"), TEXTS, least=0)


def test_no_hook_is_left_behind() -> None:
    model = tiny("olmoe")
    ll.expert_use(model, TEXTS)
    assert not any(module._forward_hooks for module in model.hf.modules())


def test_estimate() -> None:
    found = ll.estimate("expert_use", tiny("mixtral"), TEXTS)
    assert found.passes == 1
    assert math.isfinite(found.seconds)
