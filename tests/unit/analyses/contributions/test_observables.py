"""Observables along paths against direct attribution, autograd and plain algebra; bad input."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

import layerlens as ll
from layerlens.errors import InputError, ModelError
from layerlens.model.lensmodel import LensModel
from layerlens.model.tiny import tiny_model

from ..by_weights import head_maps
from ..conftest import build
from ..planted import INDUCTION, induction_model

TEXT = [5, 9, 5, 3, 7, 1]
WEIGHTS = {7: 1.0, 50: -1.0}


@pytest.fixture(scope="module")
def llama() -> LensModel:
    """A tiny model without biases, whose heads share k and v in pairs; not to be changed."""
    return build("llama")


class Frozen:
    """The parts of a tiny Llama with patterns and norms' statistics as in one run, in float64."""

    def __init__(self, hf: Any) -> None:
        self.hf = hf.double()
        self.hf.set_attn_implementation("eager")
        self.states: list[Tensor] = []
        with torch.no_grad():
            out = self.hf(torch.tensor([TEXT]), output_hidden_states=True, output_attentions=True)
        self.states = [state[0] for state in out.hidden_states[:-1]]
        self.patterns = [pattern[0] for pattern in out.attentions]
        hooked: list[Tensor] = []
        handle = self.hf.model.norm.register_forward_pre_hook(
            lambda _, args: hooked.append(args[0])
        )
        with torch.no_grad():
            self.hf(torch.tensor([TEXT]))
        handle.remove()
        self.last = hooked[0][0]

    def head(self, layer: int, head: int, x: Tensor) -> Tensor:
        """What the head writes for states ``[position, d]`` that the run's own are scaled like."""
        scale = self.states[layer].square().mean(1, keepdim=True).rsqrt()
        _, ov = head_maps(self.hf, layer, head)
        return self.patterns[layer][head] @ (x * scale @ ov.T)

    def observed(self, written: Tensor) -> Tensor:
        """What a write at the last position adds to the observable."""
        scale = self.last[-1].square().mean().rsqrt()
        logits = self.hf.lm_head.weight @ (self.hf.model.norm.weight * written[-1] * scale)
        return sum(weight * logits[token] for token, weight in WEIGHTS.items())


@pytest.fixture(scope="module")
def frozen() -> Frozen:
    """Computed once."""
    return Frozen(build("llama").hf)


def test_one_head_is_its_direct_attribution(model: LensModel) -> None:
    head = 1
    how: dict[str, Any] = {"answer": 7, "wrong": 50, "unit": "source"}
    direct = ll.direct_logit_attribution(model, TEXT, **how).data
    result = ll.observable(model, WEIGHTS, [(1, head)], text=TEXT)
    data = result.data
    assert [check for check in result.checks if not check.ok] == []
    assert data.attrs["complete"] == 1
    own = direct.head_contribution.sel(layer=1, head=head)
    assert float(data.carried[0]) == pytest.approx(float(own), abs=1e-4)
    total = float(data.contribution[0].sum() + data.constant[0])
    assert total == pytest.approx(float(own), abs=1e-4)
    before = float(direct.logit_before_cap[0] - direct.logit_before_cap[1])
    assert float(data.carried[-1]) == pytest.approx(before, abs=1e-4)


def test_positions_are_what_the_head_takes_from_each(llama: LensModel) -> None:
    direct = ll.direct_logit_attribution(llama, TEXT, answer=7, wrong=50, unit="source").data
    data = ll.observable(llama, WEIGHTS, [(2, 3)], text=TEXT).data
    expected = direct.source_contribution.sel(layer=2, head=3)
    np.testing.assert_allclose(data.contribution[0], expected, atol=1e-5)
    assert float(data.constant[0]) == pytest.approx(0, abs=1e-5)


def test_without_a_path_parts_are_those_of_direct_attribution(model: LensModel) -> None:
    direct = ll.direct_logit_attribution(model, TEXT, answer=7, wrong=50).data
    data = ll.observable(model, WEIGHTS, text=TEXT).data
    np.testing.assert_allclose(
        data.component_contribution, direct.contribution[:-1], atol=1e-5, rtol=1e-5
    )
    assert float(data.constant[0]) == pytest.approx(float(direct.contribution[-1]), abs=1e-5)


def test_two_heads_equal_autograd_on_the_frozen_path(llama: LensModel, frozen: Frozen) -> None:
    x = frozen.states[1].clone().requires_grad_()
    observed = frozen.observed(frozen.head(2, 3, frozen.head(1, 0, x)))
    (gradient,) = torch.autograd.grad(observed, x)
    value = float(observed.detach())
    result = ll.observable(llama, WEIGHTS, [(1, 0), (2, 3)], text=TEXT)
    data = result.data
    assert result.checks.ok and data.node.values.tolist() == ["1.0", "2.3", "logits"]
    np.testing.assert_allclose(data.contribution[0], (gradient * x).sum(1).detach(), atol=1e-5)
    assert float(data.carried[0]) == pytest.approx(value, abs=1e-5)
    assert abs(value) > 1e-3, "the path carries something"
    parts = float(data.component_contribution.sum())
    assert parts == pytest.approx(float(data.contribution[0].sum()), abs=1e-5)
    assert data.component.values.tolist() == ["embed", "0_attn_out", "0_mlp_out"]


def test_an_mlp_is_its_derivative(llama: LensModel, frozen: Frozen) -> None:
    block = frozen.hf.model.layers[1]
    with torch.no_grad():
        kept: list[Tensor] = []
        hook = block.post_attention_layernorm.register_forward_pre_hook(
            lambda _, args: kept.append(args[0])
        )
        frozen.hf(torch.tensor([TEXT]))
        hook.remove()
    x = kept[0][0].clone().requires_grad_()
    held = x.detach().square().mean(1, keepdim=True).rsqrt()
    written = block.mlp(x * held * block.post_attention_layernorm.weight)
    observed = frozen.observed(frozen.head(2, 3, written))
    (gradient,) = torch.autograd.grad(observed, x)
    value = float(observed.detach())
    data = ll.observable(llama, WEIGHTS, [(1, "mlp"), (2, 3)], text=TEXT).data
    assert float(data.carried[0]) == pytest.approx(value, abs=1e-5)
    np.testing.assert_allclose(data.contribution[0], (gradient * x).sum(1).detach(), atol=1e-5)
    left = value - float((gradient * x).sum().detach())
    assert float(data.constant[0]) == pytest.approx(left, abs=1e-5)
    assert abs(float(data.contribution[0].sum())) > 1e-2, (
        "norms are held: a state counts along itself"
    )
    assert data.component.values.tolist()[-1] == "1_attn_out"
    assert np.isnan(data.direction[0]).all() and np.isfinite(data.direction[1]).all()


def test_directions_by_weights_alone(model: LensModel) -> None:
    """Nothing is run: the head's matrix, then each OV, transposed."""
    hf, layers = model.hf, ((1, 1), (2, 0))
    data = ll.observable(model, WEIGHTS, layers).data
    with torch.no_grad():
        row = sum(weight * hf.lm_head.weight[token] for token, weight in WEIGHTS.items()).double()
        if hf.config.model_type == "gpt2":
            row = hf.transformer.ln_f.weight * row
            row = row - row.mean()
        else:
            row = (hf.model.norm.weight.double() + (hf.config.model_type == "gemma2")) * row
        expected = [row]
        for layer, head in reversed(layers):
            expected.insert(0, head_maps(hf, layer, head)[1].T @ expected[0])
    for found, wanted in zip(data.direction.values, expected, strict=True):
        np.testing.assert_allclose(found, wanted, rtol=1e-3, atol=1e-4 * float(wanted.norm()))
    np.testing.assert_allclose(data.strength, [float(e.norm()) for e in expected], rtol=1e-4)
    assert "contribution" not in data and data.attrs["path"] == "1.1 > 2.0 > logits"


def test_a_planted_head_takes_the_answer_from_where_it_is() -> None:
    """... 3 7 5 ... 3: the token after the first 3 is what the induction head copies."""
    model = induction_model()
    text = [0, 4, 3, 7, 5, 3]
    data = ll.observable(model, 7, [INDUCTION], text=text).data
    found = data.contribution[0].values
    assert int(found.argmax()) == 3 and found[3] > 10 * np.abs(np.delete(found, 3)).max()
    assert float(data.carried[0]) > 0.9 * float(data.carried[-1])
    assert int(data.direction_token[0, 0, 0]) == 7, "a 7 is what it reads for the answer 7"


def test_a_token_can_be_named_and_weights_scale(llama: LensModel) -> None:
    one = ll.observable(llama, {7: 1}, [(1, 0)], text=TEXT).data
    same = ll.observable(llama, 7, (1, 0), text=TEXT).data
    twice = ll.observable(llama, {7: 2.0}, [(1, 0)], text=TEXT).data
    np.testing.assert_allclose(one.contribution, same.contribution)
    np.testing.assert_allclose(twice.contribution, 2 * one.contribution, rtol=1e-5)
    early = ll.observable(llama, 7, (1, 0), text=TEXT, position=2).data
    assert early.attrs["observed_position"] == 2
    assert np.abs(early.contribution[0, 3:]).max() == 0, "nothing later can reach it"


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"weights": None}, "weights names no token"),
        ({"weights": {}}, "weights names no token"),
        ({"weights": {7: float("nan")}}, "expected a finite number"),
        ({"path": [(1, 0), (1, 1)]}, "1.1 does not read what 1.0 writes"),
        ({"path": [(2, 0), (1, "mlp")]}, "1.mlp does not read what 2.0 writes"),
        ({"path": [(1, 4)]}, "layer 1 has 4 heads"),
        ({"path": [(9, 0)]}, "9"),
        ({"path": ["1.0"]}, "A step of a path is"),
        ({"position": 2}, "text"),
        ({"top_k": 0}, "expected 1 to"),
        ({"text": [TEXT, TEXT]}, "text is several texts"),
    ],
)
def test_wrong_options_are_named(llama: LensModel, options: dict[str, Any], message: str) -> None:
    with pytest.raises(InputError, match=message):
        ll.observable(llama, **{"weights": WEIGHTS, **options})


def test_values_that_are_not_linear_are_refused() -> None:
    hf = tiny_model("bert-generation", seed=1)
    model = LensModel.wrap(hf, None, name="post-norm", prove=False)
    with pytest.raises(ModelError, match="norms the residual stream itself"):
        ll.observable(model, 7, [(0, 0)])


def test_work_counts_passes(llama: LensModel) -> None:
    assert ll.observable.work(llama, 7, [(1, 0)]).passes == 0
    assert ll.observable.work(llama, 7, [(0, "mlp"), (1, 0)], text=TEXT).passes == 3
