"""Relevance: what adds up exactly, what only nearly, and what is refused."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch
from transformers import LlamaConfig, LlamaForCausalLM

import layerlens as ll
from layerlens.errors import InputError, ModelError
from layerlens.model.tiny import tiny_model
from layerlens.run import flow

IDS = [5, 17, 33, 8, 21, 40]


FAMILIES = ["gpt2", "gemma2", "cohere", "opt", "bloom", "bert", "qwen3", "olmo2"]


def loaded(family: str) -> ll.LensModel:
    return ll.load(tiny_model(family))


@pytest.fixture(scope="module")
def llama() -> ll.LensModel:
    return loaded("llama")


@pytest.mark.parametrize("family", FAMILIES)
def test_what_holds_patterns_and_gates_adds_up_at_every_depth(family: str) -> None:
    """Biases (gpt2), caps and sandwich norms (gemma2), parallel blocks, own attention, a transform
    before the head (bert), norms of heads (qwen3): all is found on the model itself."""
    found = ll.relevance(loaded(family), IDS, rule="cp", draws=0, neurons=2, verify=0)
    assert found.checks.ok and "neurons add up" in {check.name for check in found.checks}
    parts = found.data.total + found.data.constant + found.data.missing
    assert float(parts.std()) < 1e-5
    assert float(abs(found.data.missing).max()) < 1e-5


def test_without_biases_nothing_goes_to_them(llama: ll.LensModel) -> None:
    found = ll.relevance(llama, IDS, rule="cp").data
    assert float(abs(found.constant).max()) == 0
    own = llama.hf(torch.tensor([IDS])).logits[0, -1].max().detach()
    np.testing.assert_allclose(found.total, float(own), rtol=1e-5)


def test_a_softmax_does_not_conserve_and_without_attention_all_is_conserved(
    llama: ll.LensModel,
) -> None:
    found = ll.relevance(llama, IDS, rule="attnlrp", draws=0)
    assert found.checks.ok
    assert float(abs(found.data.missing.sel(point="embed"))) > 1e-3
    mute = loaded("llama")
    with torch.no_grad():
        for block in mute.hf.model.layers:
            block.self_attn.o_proj.weight.zero_()
    found = ll.relevance(mute, IDS, rule="attnlrp", draws=0).data
    assert float(abs(found.missing).max()) < 1e-5
    assert float(abs(found.relevance[:, :-1]).max()) < 1e-5  # no token but the last is read


def test_state_times_derivative_by_plain_autograd(llama: ll.LensModel) -> None:
    found = ll.relevance(llama, IDS, rule="input_x_gradient", draws=0)
    embedded = llama.hf.model.embed_tokens(torch.tensor([IDS])).detach().requires_grad_()
    logits = llama.hf(inputs_embeds=embedded).logits[0, -1]
    logits.max().backward()
    wanted = (embedded * embedded.grad)[0].sum(-1).detach()
    np.testing.assert_allclose(found.data.relevance[0], wanted, rtol=1e-4, atol=1e-6)
    length = ll.relevance(llama, IDS, rule="gradient", draws=0).data.relevance[0]
    np.testing.assert_allclose(length, embedded.grad[0].norm(dim=-1), rtol=1e-4)
    assert found.checks.ok


def test_of_two_answers_the_difference(llama: ll.LensModel) -> None:
    one, two, both = (
        ll.relevance(llama, IDS, draws=0, **asked).data.relevance
        for asked in ({"answer": 7}, {"answer": 9}, {"answer": 7, "wrong": 9})
    )
    np.testing.assert_allclose(both, one - two, atol=1e-5)


def test_a_token_that_alone_differs_carries_all_of_the_way_from_another_text(
    llama: ll.LensModel,
) -> None:
    other = [5, 17, 12, 8, 21, 40]
    found = ll.relevance(llama, IDS, rule="integrated", answer=7, baseline=other)
    assert found.checks.ok
    embed = found.data.relevance.sel(point="embed").values
    ends = [llama.hf(torch.tensor([ids])).logits[0, -1, 7].item() for ids in (IDS, other)]
    np.testing.assert_allclose(embed[2], ends[0] - ends[1], rtol=0.02)
    assert embed[[0, 1, 3, 4, 5]].tolist() == [0] * 5
    np.testing.assert_allclose(found.data.constant, ends[1], rtol=1e-4)


def test_linear_relu_block_by_hand() -> None:
    """One ReLU MLP over a stream without norms: relevance is what each unit that is on adds."""
    config = LlamaConfig(
        num_hidden_layers=1,
        hidden_size=8,
        intermediate_size=16,
        num_attention_heads=2,
        vocab_size=30,
        hidden_act="relu",
    )
    torch.manual_seed(0)
    small = LlamaForCausalLM(config).eval()
    model = ll.load(small)
    with torch.no_grad():
        small.model.layers[0].self_attn.o_proj.weight.zero_()
        for parameter in small.parameters():
            if parameter.dim() > 1:
                parameter.mul_(20)
    found = ll.relevance(model, [3, 4, 5], answer=7, rule="attnlrp", draws=0, neurons=1).data
    embedded = small.model.embed_tokens(torch.tensor(5)).detach()
    block, head = small.model.layers[0], small.lm_head.weight[7]
    normed = embedded / embedded.square().mean().add(config.rms_norm_eps).sqrt()
    gate, up = block.mlp.gate_proj(normed), block.mlp.up_proj(normed)
    post = embedded + block.mlp.down_proj(gate.relu() * up)
    scale = post.square().mean().add(config.rms_norm_eps).rsqrt()
    wanted = (head @ (post * scale)).item()
    assert found.relevance[0, 2] == pytest.approx(wanted, rel=1e-4)  # nothing is lost on the way
    neurons = (head @ block.mlp.down_proj.weight) * gate.relu() * up * scale  # the last token's
    best = int(neurons.abs().argmax())
    assert found.neuron[0, 0] == best
    assert found.neuron_relevance[0, 0] == pytest.approx(neurons[best].item(), rel=1e-4)
    written = (head @ (block.mlp.down_proj(gate.relu() * up) * scale)).item()
    assert found.sublayer_relevance.sel(sublayer="0_mlp_out") == pytest.approx(written, rel=1e-4)


def test_neurons_by_plain_autograd(llama: ll.LensModel) -> None:
    """What they carry is their number times the derivative; their effect is the model without."""
    found = ll.relevance(
        llama, IDS, answer=7, rule="input_x_gradient", draws=0, neurons=3, verify=2
    )
    downs = [block.mlp.down_proj for block in llama.hf.model.layers]
    given: list[torch.Tensor] = []

    def keep(module: torch.nn.Module, args: tuple[torch.Tensor]) -> None:
        args[0].retain_grad()
        given.append(args[0])

    hooks = [down.register_forward_pre_hook(keep) for down in downs]
    llama.hf(torch.tensor([IDS])).logits[0, -1, 7].backward()
    for hook in hooks:
        hook.remove()
    wanted = torch.stack([(x * x.grad)[0].sum(0) for x in given]).detach().numpy()
    kept = found.data.neuron.values
    order = np.argsort(-abs(wanted), axis=1)[:, :3]
    assert kept.tolist() == order.tolist()
    np.testing.assert_allclose(
        found.data.neuron_relevance, np.take_along_axis(wanted, order, 1), rtol=1e-3
    )
    assert found.checks.ok
    places = [
        (int(x), int(n))
        for x, n in zip(found.data.zeroed_layer, found.data.zeroed_neuron, strict=True)
    ]
    best = np.dstack(np.unravel_index(np.argsort(-abs(wanted), axis=None)[:2], wanted.shape))[0]
    assert places[:2] == [tuple(place) for place in best.tolist()] and len(set(places)) == 4
    plain = llama.hf(torch.tensor([IDS])).logits[0, -1, 7].item()
    for (layer, number), effect in zip(places, found.data.zeroed_effect.values, strict=True):
        weight = downs[layer].weight
        with torch.no_grad():
            column = weight[:, number].clone()
            weight[:, number] = 0
            lost = plain - float(llama.hf(torch.tensor([IDS])).logits[0, -1, 7])
            weight[:, number] = column
        assert effect == pytest.approx(lost, abs=1e-5)


def test_nothing_stays_behind(llama: ll.LensModel) -> None:
    before = llama.hf(torch.tensor([IDS])).logits
    ll.relevance(llama, IDS, rule="cp")
    assert torch.equal(llama.hf(torch.tensor([IDS])).logits, before)
    assert not any(module._forward_hooks for module in llama.hf.modules())
    assert not any(module._forward_pre_hooks for module in llama.hf.modules())


def test_a_rule_that_changes_numbers_is_found(
    llama: ll.LensModel, monkeypatch: pytest.MonkeyPatch
) -> None:
    def forward(ctx: Any, u: torch.Tensor, a: torch.Tensor, slope: torch.Tensor) -> torch.Tensor:
        ctx.save_for_backward(slope)
        return a * 1.1

    monkeypatch.setattr(flow._Sloped, "forward", staticmethod(forward))
    for seed in range(3):  # whichever block is run by itself
        checks = ll.relevance(llama, IDS, draws=0, seed=seed).checks
        assert not next(check for check in checks if check.name == "same numbers").ok


def test_weights_of_a_norm_that_changed_are_measured_again() -> None:
    model = loaded("llama")
    ll.relevance(model, IDS, rule="cp", draws=0)
    with torch.no_grad():
        model.hf.model.norm.weight[::2] *= -3
    found = ll.relevance(model, IDS, rule="cp", draws=0)
    assert found.checks.ok and float(abs(found.data.missing).max()) < 1e-5


def test_an_activation_that_writes_into_what_it_is_given() -> None:
    """The same numbers as of one that does not."""
    found = []
    for inplace in (False, True):
        hf = tiny_model("opt")
        for block in hf.model.decoder.layers:
            block.activation_fn = torch.nn.LeakyReLU(0.1, inplace=inplace)
        found.append(ll.relevance(ll.load(hf), IDS, answer=7, draws=0))
    assert found[1].checks.ok
    one, other = (each.data.relevance for each in found)
    np.testing.assert_allclose(one, other, atol=1e-6)


def test_the_embedding_alone_is_that_of_all_depths(llama: ll.LensModel) -> None:
    every, alone = (
        ll.relevance(llama, IDS, draws=0, neurons=1, verify=0, at=at).data
        for at in ("layers", "embed")
    )
    np.testing.assert_allclose(alone.relevance[0], every.relevance[0], rtol=1e-5)
    assert "sublayer" not in alone.dims and every.neuron.equals(alone.neuron)


def test_random_answers_beside(llama: ll.LensModel) -> None:
    found = ll.relevance(llama, IDS, draws=3, seed=1).data
    again = ll.relevance(llama, IDS, draws=3, seed=1).data
    assert found.relevance_chance.equals(again.relevance_chance)
    assert ((found.likeness_chance >= 0) & (found.likeness_chance <= 1 + 1e-9)).all()
    alone = ll.relevance(llama, IDS, draws=0).data
    assert not {"relevance_chance", "sublayer_share_chance"} & set(alone)


def test_shares_of_sublayers_beside_those_of_a_random_answer(llama: ll.LensModel) -> None:
    found = ll.relevance(llama, IDS, answer=7, draws=1, seed=3).data
    order = np.random.default_rng((3, 0)).permutation(llama.d_vocab)
    drawn = int(order[order != 7][0])
    other = ll.relevance(llama, IDS, answer=drawn, draws=0).data.sublayer_share
    np.testing.assert_allclose(found.sublayer_share_chance, other, rtol=1e-5)
    assert float(found.sublayer_share_chance.sum()) == pytest.approx(1)
    assert float(abs(found.sublayer_share - other).max()) > 1e-4


@pytest.mark.parametrize(
    ("options", "error", "words"),
    [
        ({"rule": "lrp"}, InputError, "attnlrp"),
        ({"at": "block"}, InputError, "layers"),
        ({"draws": -1}, InputError, "from 0"),
        ({"draws": 99}, InputError, "from 0 to 48"),
        ({"rule": "integrated", "baseline": [1, 2]}, InputError, "as many"),
        ({"answer": 4, "wrong": 4}, InputError, "same token"),
        ({"steps": 20}, InputError, "integrated"),
        ({"neurons": -1}, InputError, "0 or more"),
        ({"neurons": 10**4}, InputError, "neurons in a layer"),
        ({"neurons": 1, "rule": "gradient"}, InputError, "has an effect only"),
        ({"verify": 1}, InputError, "neurons is given"),
    ],
)
def test_what_does_not_fit(
    llama: ll.LensModel, options: dict[str, Any], error: type[Exception], words: str
) -> None:
    with pytest.raises(error, match=words):
        ll.relevance(llama, IDS, **options)


@pytest.mark.parametrize(
    ("family", "words"),
    [("mixtral", "no one activation"), ("mamba", "softmax"), ("roberta", "linear map")],
)
def test_parts_without_a_rule_are_refused_and_the_derivative_goes_on(
    family: str, words: str
) -> None:
    model = loaded(family)
    with pytest.raises(ModelError, match=words):
        ll.relevance(model, IDS, rule="attnlrp")
    assert ll.relevance(model, IDS, rule="input_x_gradient", draws=0).checks.ok
