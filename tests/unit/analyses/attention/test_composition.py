"""Composition of heads against whole matrices, planted circuits, chance and bad input."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch

import layerlens as ll
from layerlens.errors import InputError, ModelError
from layerlens.model.lensmodel import LensModel
from layerlens.model.tiny import tiny_model

from ..by_weights import bert_stream, head_maps, latent_ov
from ..planted import INDUCTION, PREVIOUS, induction_model


@pytest.fixture(scope="module")
def qwen() -> LensModel:
    """A model with norms on q and k, and fewer key-value heads than heads."""
    return LensModel.wrap(tiny_model("qwen3", seed=1), None, name="tiny qwen3", prove=False)


def by_definition(hf: Any, kind: str, reads: tuple[int, int], writes: tuple[int, int]) -> float:
    """The score from matrices of d_model x d_model."""
    with torch.no_grad():
        (qk, own), (_, ov) = head_maps(hf, *reads), head_maps(hf, *writes)
        read = {"q": qk.T, "k": qk, "v": own}[kind]
        return float((read @ ov).norm() / (read.norm() * ov.norm()))


def require_definition(model: LensModel, kind: str) -> None:
    result = ll.composition(model, kind)
    data = result.data
    assert result.checks.ok and data.attrs["complete"] == 1
    heads = range(model.n_heads)
    for layer in range(model.n_layers):
        for before in range(model.n_layers):
            if before >= layer:
                assert np.isnan(data.composition.sel(layer=layer, from_layer=before)).all()
                continue
            found = data.composition.sel(layer=layer, from_layer=before).values
            expected = [
                [by_definition(model.hf, kind, (layer, a), (before, b)) for b in heads]
                for a in heads
            ]
            np.testing.assert_allclose(found, expected, atol=2e-5)


@pytest.mark.parametrize("kind", ["q", "k", "v"])
def test_scores_equal_products_of_whole_matrices(model: LensModel, kind: str) -> None:
    require_definition(model, kind)


def test_norms_on_q_and_k_are_part_of_the_maps(qwen: LensModel) -> None:
    require_definition(qwen, "k")
    folded = ll.composition(qwen, "k").data.attrs["folded"]
    assert "q_norm on q" in folded and "input_layernorm before it" in folded


def with_gains(family: str, **config: Any) -> Any:
    """A tiny model whose norms have gains that differ from channel to channel."""
    hf = tiny_model(family, seed=1, **config)
    generator = torch.Generator().manual_seed(2)
    with torch.no_grad():
        for name, parameter in hf.named_parameters():
            if "norm" in name.lower() and name.endswith("weight"):
                parameter.copy_(0.5 + torch.rand(parameter.shape, generator=generator))
    return hf


@pytest.mark.parametrize("kind", ["q", "k", "v"])
def test_norms_on_what_is_written_and_on_all_of_q_and_k(kind: str) -> None:
    require_definition(LensModel.wrap(with_gains("olmo2"), None, prove=False), kind)


@torch.no_grad()
@pytest.mark.parametrize("kind", ["q", "k", "v"])
def test_norms_on_the_stream_lie_between_the_heads(kind: str) -> None:
    hf = with_gains("bert", num_hidden_layers=3)
    result = ll.composition(LensModel.wrap(hf, None, prove=False), kind)
    assert result.checks.ok
    assert "bert.encoder.layer.*.output.LayerNorm on the stream" in result.data.attrs["folded"]
    for before, layer in ((0, 1), (1, 2), (0, 2)):
        (qk, own), (_, ov) = head_maps(hf, layer, 3), head_maps(hf, before, 1)
        read = {"q": qk.T, "k": qk, "v": own}[kind]
        write = bert_stream(hf, range(before, layer)) @ ov
        expected = float((read @ write).norm() / (read.norm() * write.norm()))
        found = result.data.composition.sel(layer=layer, head=3, from_layer=before, from_head=1)
        assert float(found) == pytest.approx(expected, abs=2e-5)
    some = ll.composition(LensModel.wrap(hf, None, prove=False), kind, layers=[0, 2]).data
    np.testing.assert_allclose(
        some.composition.sel(layer=2, from_layer=0),
        result.data.composition.sel(layer=2, from_layer=0),
        atol=1e-6,
    )


def test_a_norm_that_erases_a_channel_cuts_what_passes_there() -> None:
    """Both heads meet in channel 0 alone; the gain of the norm between them decides."""
    hf = with_gains("bert", num_hidden_layers=2)
    first, second = (block.attention for block in hf.bert.encoder.layer)
    size = hf.config.hidden_size // hf.config.num_attention_heads
    with torch.no_grad():
        first.output.dense.weight[:, :size] = 0
        first.output.dense.weight[0, :size], first.output.dense.weight[1, :size] = 1, -1
        second.self.query.weight[:size] = 0
        second.self.query.weight[:size, 0] = 1
    where = {"layer": 1, "head": 0, "from_layer": 0, "from_head": 0}
    model = LensModel.wrap(hf, None, prove=False)
    assert float(ll.composition(model, "q").data.composition.sel(where)) > 0.5
    with torch.no_grad():
        hf.bert.encoder.layer[0].output.LayerNorm.weight[0] = 0
    assert float(ll.composition(model, "q").data.composition.sel(where)) == pytest.approx(0)


@torch.no_grad()
@pytest.mark.parametrize("family", ["deepseek_v2", "deepseek_v3", "minicpm3", "glm4_moe_lite"])
def test_values_through_a_latent_are_one_map(family: str) -> None:
    hf = with_gains(family)
    result = ll.composition(LensModel.wrap(hf, None, prove=False), "v")
    assert result.checks.ok
    assert "kv_a_layernorm between them" in result.data.attrs["folded"]
    for reads, writes in (((1, 0), (0, 3)), ((1, 2), (0, 2))):
        read, write = latent_ov(hf, *reads), latent_ov(hf, *writes)
        expected = float((read @ write).norm() / (read.norm() * write.norm()))
        places = dict(
            zip(("layer", "head", "from_layer", "from_head"), reads + writes, strict=True)
        )
        assert float(result.data.composition.sel(places)) == pytest.approx(expected, abs=2e-5)


def test_the_planted_circuit_comes_first() -> None:
    """The previous-token head writes what the induction head looks for with its keys."""
    data = ll.composition(induction_model(), "k").data
    first = [int(data[f"edge_{name}"][0]) for name in ("from_layer", "from_head", "layer", "head")]
    assert (tuple(first[:2]), tuple(first[2:])) == (PREVIOUS, INDUCTION)
    assert data.edge.values[0] == "0.2 > 1.1"
    score = data.above_chance.sel(layer=1, head=1, from_layer=0, from_head=2)
    assert float(score) == float(data.edge_above_chance[0]) > 0.1
    assert float(data.read.sel(layer=1, head=1)) == float(data.written.sel(layer=0, head=2))
    assert np.isnan(data.read.sel(layer=1, head=0)), "a head of zeros reads nothing"
    for kind in "qv":
        other = ll.composition(induction_model(), kind).data
        pair = other.composition.sel(layer=1, head=1, from_layer=0, from_head=2)
        assert float(pair) == pytest.approx(0, abs=1e-6), "it is not read there"


def test_heads_of_rank_one_that_meet_score_one() -> None:
    hf = tiny_model("llama", num_hidden_layers=2)
    own = LensModel.wrap(hf, None, name="rank one", prove=False)
    first, second = hf.model.layers
    size, d = first.self_attn.head_dim, hf.config.hidden_size
    with torch.no_grad():
        for norm in (first.input_layernorm, second.input_layernorm):
            norm.weight.fill_(1)
        line, across = torch.eye(d)[0], torch.eye(d)[1]
        first.self_attn.o_proj.weight[:, :size] = line[:, None]
        second.self_attn.q_proj.weight[:size] = line
        second.self_attn.q_proj.weight[size : 2 * size] = across
        second.self_attn.k_proj.weight.normal_()
    found = ll.composition(own, "q").data.composition.sel(layer=1, from_layer=0, from_head=0)
    assert float(found.sel(head=0)) == pytest.approx(1, abs=1e-5)
    assert float(found.sel(head=1)) == pytest.approx(0, abs=1e-6)


def test_chance_is_what_random_heads_have() -> None:
    """The mean over many heads of a random model, and one over the root of the width."""
    hf = tiny_model("llama", hidden_size=64, num_attention_heads=8, num_key_value_heads=8)
    data = ll.composition(LensModel.wrap(hf, None, prove=False), "v", draws=40).data
    chance = float(data.chance[0])
    assert chance == pytest.approx(64**-0.5, rel=0.03)
    assert float(np.nanmean(data.composition)) == pytest.approx(chance, rel=0.05)
    assert 0 < float(data.chance_deviation[0]) < 0.2 * chance
    np.testing.assert_allclose(data.above_chance, data.composition - chance, atol=1e-6)


def test_scores_do_not_depend_on_the_size_of_weights(gpt2: LensModel) -> None:
    before = ll.composition(gpt2).data
    with torch.no_grad():
        gpt2.hf.transformer.h[0].attn.c_proj.weight.mul_(7)
        gpt2.hf.transformer.h[1].ln_1.weight.mul_(3)
    np.testing.assert_allclose(ll.composition(gpt2).data.composition, before.composition, atol=1e-5)


def test_chosen_layers_alone(model: LensModel) -> None:
    whole, some = ll.composition(model, "v").data, ll.composition(model, "v", layers=[0, 2]).data
    assert some.layer.values.tolist() == [0, 2] and some.attrs["complete"] == 1
    np.testing.assert_allclose(
        some.composition.sel(layer=2, from_layer=0), whole.composition.sel(layer=2, from_layer=0)
    )


def test_no_weight_is_changed(model: LensModel) -> None:
    before = [parameter.clone() for parameter in model.hf.parameters()]
    ll.composition(model, "k")
    assert all(map(torch.equal, before, model.hf.parameters()))


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"kind": "z"}, "kind: 'z' is not known"),
        ({"layers": 1}, "choose at least two that have heads"),
        ({"draws": 1}, "expected top from 1 and draws from 2"),
        ({"top": 0}, "expected top from 1"),
    ],
)
def test_wrong_options_are_named(model: LensModel, options: dict[str, Any], message: str) -> None:
    with pytest.raises(InputError, match=message):
        ll.composition(model, **options)


@pytest.mark.parametrize(
    ("family", "message"),
    [
        ("deepseek_v3", "part of each key comes through a norm on a latent and part does not"),
        ("mamba", "mamba"),
    ],
)
def test_models_whose_heads_are_no_maps_are_refused(family: str, message: str) -> None:
    other = LensModel.wrap(tiny_model(family), None, name=family, prove=False)
    with pytest.raises(ModelError, match=message):
        ll.composition(other)
