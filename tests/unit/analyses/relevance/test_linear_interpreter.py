"""The held model: by plain torch, on nets that are linear by themselves, and what is refused."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor
from transformers import LlamaConfig, LlamaForCausalLM, OPTForCausalLM

import layerlens as ll
from layerlens.errors import InputError, ModelError
from layerlens.model.tiny import tiny_model
from layerlens.run import frozen

IDS = [5, 17, 33, 8, 21]
WIDTH = 8
HUGE = 1e12
"""As the epsilon of a norm: beside it a state's own size is nothing, so that the norm is linear."""


def small_llama(**config: Any) -> LlamaForCausalLM:
    torch.manual_seed(0)
    return LlamaForCausalLM(
        LlamaConfig(
            num_hidden_layers=2,
            hidden_size=WIDTH,
            intermediate_size=12,
            num_attention_heads=2,
            num_key_value_heads=2,
            vocab_size=60,
            initializer_range=0.4,
            attn_implementation="eager",
            **config,
        )
    ).eval()


class Twin:
    """A Llama by hand, with each part held at one text."""

    def __init__(self, hf: LlamaForCausalLM) -> None:
        self.hf = hf
        out = hf(torch.tensor([IDS]), output_attentions=True, output_hidden_states=True)
        self.patterns = [one[0].detach() for one in out.attentions]
        # The last of transformers' own states is behind the norm already.
        self.states = [one[0].detach() for one in out.hidden_states[:-1]]
        self.states.append(self.after(1, self.states[1]))

    def after(self, layer: int, state: Tensor) -> Tensor:
        """The held block on another state ``[position, width]``."""
        block, own = self.hf.model.layers[layer], self.states[layer]
        attention, mlp = block.self_attn, block.mlp
        middle = own + self._attend(attention, block.input_layernorm(own), layer)
        gate = mlp.act_fn(mlp.gate_proj(block.post_attention_layernorm(middle)))
        read = _held(block.input_layernorm, state, own)
        state = state + self._attend(attention, read, layer)
        read = _held(block.post_attention_layernorm, state, middle)
        return (state + mlp.down_proj(gate * mlp.up_proj(read))).detach()

    def _attend(self, attention: Any, read: Tensor, layer: int) -> Tensor:
        values = attention.v_proj(read).view(len(read), 2, -1).transpose(0, 1)
        mixed = (self.patterns[layer] @ values).transpose(0, 1).flatten(1)
        return attention.o_proj(mixed)

    def final(self, layer: int, state: Tensor) -> Tensor:
        for later in range(layer, 2):
            state = self.after(later, state)
        return state[-1]

    def matrix(self, layer: int) -> Tensor:
        """``[width, position * width]``: a column for each entry of the states."""
        units = torch.eye(len(IDS) * WIDTH).view(-1, len(IDS), WIDTH)
        constant = self.final(layer, torch.zeros(len(IDS), WIDTH))
        return torch.stack([self.final(layer, unit) - constant for unit in units], 1)


def _held(norm: Any, state: Tensor, own: Tensor) -> Tensor:
    scale = (own.square().mean(-1, keepdim=True) + norm.variance_epsilon).rsqrt()
    return state * scale * norm.weight


def test_matrix_and_constant_by_hand() -> None:
    hf = small_llama(attention_bias=True, mlp_bias=True)
    with torch.no_grad():
        for name, parameter in hf.named_parameters():
            if name.endswith("bias"):
                parameter.normal_(std=0.3)
    found = ll.linear_interpreter(
        ll.load(hf), IDS, answer=7, position=2, draws=0, singular=3, untrained=False
    )
    assert found.checks.ok
    twin = Twin(hf)
    row = hf.lm_head.weight[7].detach() * hf.model.norm.weight.detach()
    row = row * (twin.states[2][-1].square().mean() + hf.model.norm.variance_epsilon).rsqrt()
    for depth in range(3):
        here = found.data.isel(point=depth)
        matrix, state = twin.matrix(depth), twin.states[depth]
        constant = twin.final(depth, torch.zeros_like(state))
        np.testing.assert_allclose(here.bias, constant, atol=1e-4)
        linear = matrix @ state.flatten()
        votes = (row @ matrix).view(-1, WIDTH) * state
        np.testing.assert_allclose(here.vote, votes.sum(-1), atol=1e-3)
        np.testing.assert_allclose(here.answer_part, [row @ linear, row @ constant], atol=1e-3)
        sizes = constant.norm(), linear.norm()
        assert float(here.bias_share[0]) == pytest.approx(float(sizes[0] / sum(sizes)), abs=1e-4)
        column = matrix.view(WIDTH, -1, WIDTH)[:, 2] @ (state[2] / state[2].norm())
        assert float(here.state_change[0]) == pytest.approx(float(column.norm()), rel=1e-3)
        assert float(here.answer_change[0]) == pytest.approx(abs(float(row @ column)), abs=1e-3)
        values = torch.linalg.svdvals(matrix)[:3]
        np.testing.assert_allclose(here.singular_value, values, rtol=0.02)
    assert 0.01 < float(found.data.bias_share[0, 0]) < 0.99  # there is something to compare


def test_of_a_linear_net_all_rules_say_the_same_and_nothing_reacts() -> None:
    """No query: every token looks back evenly. No MLP. Norms that a state's size does not move."""
    hf = small_llama()
    with torch.no_grad():
        for block in hf.model.layers:
            block.self_attn.q_proj.weight.zero_()
            block.mlp.down_proj.weight.zero_()
            _make_linear(block.input_layernorm)
            _make_linear(block.post_attention_layernorm)
        _make_linear(hf.model.norm)
    model = ll.load(hf)
    found = ll.linear_interpreter(model, IDS, answer=7, singular=1, untrained=False)
    assert found.checks.ok
    held, free = found.data.state_change.values[:, ::2], found.data.state_change.values[:, 1::2]
    np.testing.assert_allclose(held, free, rtol=1e-3)
    # Of one layer: the last token keeps itself and gets the mean of what all of them write.
    attention = hf.model.layers[1].self_attn
    moved = torch.eye(WIDTH) + (attention.o_proj.weight @ attention.v_proj.weight) / len(IDS)
    last = model.hf.model.layers[0](
        hf.model.embed_tokens(torch.tensor([IDS])),
        position_embeddings=hf.model.rotary_emb(torch.zeros(1), torch.arange(5)[None]),
    )
    last = last[0] if isinstance(last, tuple) else last
    own = last.reshape(-1, WIDTH)[-1].detach()
    wanted = (moved @ (own / own.norm())).norm().item()
    assert held[1, 0] == pytest.approx(wanted, rel=1e-3)
    votes = [
        ll.relevance(model, IDS, answer=7, rule=rule, draws=0, at="embed").data.relevance[0]
        for rule in ("cp", "input_x_gradient")
    ]
    way = ll.relevance(model, IDS, answer=7, rule="integrated", at="embed").data
    np.testing.assert_allclose(*votes, rtol=1e-3, atol=1e-5)
    answer = float(found.data.answer_part[0].sum())
    assert float(votes[0].sum()) == pytest.approx(answer, rel=1e-3)
    assert float(way.total[0] + way.constant[0]) == pytest.approx(answer, rel=1e-3)


def _make_linear(norm: Any) -> None:
    name = "eps" if hasattr(norm, "eps") else "variance_epsilon"
    setattr(norm, name, HUGE)
    norm.weight.fill_(HUGE**0.5)


def test_inside_one_linear_region_a_small_step_of_the_model_is_the_matrix() -> None:
    """ReLU units that a unit's push does not switch, by plain hooks on transformers' own model."""
    hf: OPTForCausalLM = tiny_model("opt")
    layers = hf.model.decoder.layers
    with torch.no_grad():
        hf.model.decoder.embed_tokens.weight.mul_(1e4)
        for block in layers:
            block.self_attn.q_proj.weight.zero_()
            block.self_attn.q_proj.bias.zero_()
            _make_linear(block.self_attn_layer_norm)
            _make_linear(block.final_layer_norm)
    found = ll.linear_interpreter(ll.load(hf), IDS, draws=0, singular=0, position=3).data
    finals = []
    for size in (0.0, 1.0):

        def push(_: Any, args: tuple[Tensor, ...], size: float = size) -> Any:
            state = args[0].clone()
            state[0, 3] += size * state[0, 3] / state[0, 3].norm()
            return (state, *args[1:])

        hooks = [layers[0].register_forward_pre_hook(push)]
        keep = lambda _, args, out: finals.append(first(out)[0, -1].detach())  # noqa: E731
        hooks.append(layers[-1].register_forward_hook(keep))
        hf(torch.tensor([IDS]))
        for hook in hooks:
            hook.remove()
    wanted = (finals[1] - finals[0]).norm().item()
    assert found.state_change.values[0] == pytest.approx([wanted, wanted], rel=1e-2)


def first(out: Any) -> Tensor:
    return out[0] if isinstance(out, tuple) else out


@pytest.mark.parametrize("family", ["gpt2", "gemma2", "cohere", "bloom", "bert", "qwen3"])
def test_families(family: str) -> None:
    """Biases, caps, parallel blocks, attention code of their own, a head behind a transform."""
    found = ll.linear_interpreter(ll.load(tiny_model(family)), IDS, draws=1, singular=0)
    assert found.checks.ok and len(found.checks) == 3


def test_a_part_that_is_held_wrongly_shows(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(frozen, "slope_from_zero", lambda u, a: torch.zeros_like(u))
    found = ll.linear_interpreter(ll.load(tiny_model("gpt2")), IDS, singular=0)
    assert [check.name for check in found.checks if not check.ok] == [
        "same numbers",
        "votes are relevance",
    ]


def test_too_few_rounds_show_and_the_untrained_model_stands_beside() -> None:
    model = ll.load(tiny_model("llama"))
    found = ll.linear_interpreter(model, IDS, layers=1, singular=2, rounds=2, seed=3)
    assert [check.name for check in found.checks if not check.ok] == ["singular values settled"]
    assert found.data["rank"].values.tolist() == ["1", "2", "1, untrained", "2, untrained"]
    assert found.data.point.values.tolist() == ["embed", "1_post"]
    torch.manual_seed(3)
    fresh = ll.load(type(model.hf)(model.hf.config).eval())
    own = ll.linear_interpreter(fresh, IDS, layers=1, singular=2, rounds=2, untrained=False, seed=3)
    np.testing.assert_allclose(own.data.singular_value, found.data.singular_value[:, 2:], rtol=1e-4)


def test_several_texts_one_after_the_other() -> None:
    model = ll.load(tiny_model("gpt2"))
    both = ll.linear_interpreter(model, [IDS[:3], IDS], singular=0, draws=0).data
    alone = ll.linear_interpreter(model, IDS[:3], singular=0, draws=0).data
    np.testing.assert_allclose(both.state_change[0], alone.state_change, rtol=1e-4)
    np.testing.assert_allclose(both.vote[0, :, :3], alone.vote, atol=1e-5)
    assert bool(both.vote[0, :, 3:].isnull().all())


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"draws": -1}, "from 0"),
        ({"singular": 99}, "width of a state"),
        ({"rounds": 1}, "2 or more"),
        ({"singular": 0, "rounds": 5}, "singular is given"),
        ({"position": [0, 1]}, "single one"),
        ({"answer": 4, "wrong": 4}, "same token"),
    ],
)
def test_what_does_not_fit(options: dict[str, Any], words: str) -> None:
    with pytest.raises(InputError, match=words):
        ll.linear_interpreter(ll.load(tiny_model("llama")), IDS, **options)


def test_parts_that_cannot_be_held_are_refused() -> None:
    with pytest.raises(ModelError, match="softmax"):
        ll.linear_interpreter(ll.load(tiny_model("mamba")), IDS)
