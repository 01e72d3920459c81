"""Clamped neurons: against plain hooks, on a neuron that was planted, and identities."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

import layerlens as ll
from layerlens.errors import InputError, SiteError
from layerlens.model.lensmodel import LensModel
from layerlens.model.tiny import tiny_model

from ..by_hooks import FAMILIES, IDS, OTHER, part, plain, run, wrapped

LAYER, NEURON, ANSWER, WRONG = 1, 5, 7, 11
VALUES = (-3.0, 0.0, 2.5)
ASKED: dict[str, Any] = {"answer": ANSWER, "wrong": WRONG}


def held(value: Any, where: Any = slice(None), neuron: int = NEURON, add: bool = False) -> Any:
    """What a hook before the last projection does to its input."""

    def change(given: Tensor) -> Tensor:
        if add:
            given[0, where, neuron] += value
        else:
            given[0, where, neuron] = value
        return given

    return change


def logit_difference(logits: Tensor) -> float:
    return float(logits[ANSWER] - logits[WRONG])


@pytest.mark.parametrize("family", FAMILIES)
@pytest.mark.parametrize("where", [None, [1, -1]])
def test_every_value_equals_a_plain_hook(family: str, where: list[int] | None) -> None:
    hf = plain(family)
    module = part(hf, LAYER, "neurons")
    result = ll.clamp(wrapped(family), IDS, (LAYER, NEURON), VALUES, positions=where, **ASKED)
    before = run(hf, IDS)
    for column, value in enumerate(VALUES):
        hook = (module, "in", held(value, slice(None) if where is None else where))
        after = run(hf, IDS, [hook])
        found = result.data.isel(value=column)
        assert float(found.metric) == pytest.approx(logit_difference(after), abs=1e-4)
        moved = logit_difference(after) - logit_difference(before)
        assert float(found.change) == pytest.approx(moved, abs=1e-4)
        one, other = before.double().log_softmax(-1), after.double().log_softmax(-1)
        assert float(found.kl) == pytest.approx(float((one.exp() * (one - other)).sum()), abs=1e-5)
    assert result.checks.ok


def test_the_chances_followed_are_those_of_the_likeliest_tokens() -> None:
    hf = plain("llama")
    module = part(hf, LAYER, "neurons")
    data = ll.clamp(wrapped("llama"), IDS, (LAYER, NEURON), VALUES, draws=0).data
    rows = [run(hf, IDS, [(module, "in", held(value))]).softmax(-1) for value in VALUES]
    best = torch.stack(rows).amax(0).topk(data.sizes["next"]).indices
    expected = torch.stack(rows)[:, best].T
    np.testing.assert_allclose(data.next_probability, expected, atol=1e-5)


def test_random_neurons_are_moved_by_as_much() -> None:
    """Of two neurons the other one is the control: moved by the same norm, from where it is."""
    model = LensModel.wrap(
        tiny_model("llama", seed=1, intermediate_size=2), None, name="two neurons", prove=False
    )
    hf: Any = tiny_model("llama", seed=1, intermediate_size=2)
    down = hf.model.layers[LAYER].mlp.down_proj
    recorded: list[Tensor] = []

    def see(given: Tensor) -> Tensor:
        recorded.append(given.clone())
        return given

    data = ll.clamp(model, IDS, (LAYER, 0), VALUES, draws=5, **ASKED).data
    before = run(hf, IDS, [(down, "in", see)])
    length = down.weight.detach().norm(dim=0)
    for column, value in enumerate(VALUES):
        step = (value - recorded[0][0, :, 0]) * length[0] / length[1]
        after = run(hf, IDS, [(down, "in", held(step, neuron=1, add=True))])
        moved = logit_difference(after) - logit_difference(before)
        for name in ("random_change", "random_change_low", "random_change_high"):
            assert float(data[name][column]) == pytest.approx(moved, abs=1e-4)


def test_a_planted_neuron_says_its_token_and_nothing_else_is_needed() -> None:
    model = ll.load("toy:induction")
    down, token = model.hf.model.layers[1].mlp.down_proj.weight, model.token_id("owl")
    kept = down.detach().clone()
    with torch.no_grad():
        down[:, 3] = model.hf.lm_head.weight[token]
    try:
        data = ll.clamp(
            model, "cat dog owl cat", (1, 3), [-50, 0, 50], answer="owl", metric="probability"
        ).data
    finally:
        with torch.no_grad():
            down.copy_(kept)
    assert float(data.metric[2]) > 0.9 > 0.1 > float(data.metric[0])
    assert str(data.token.values[int(data.next_probability.values[:, 2].argmax())]) == "owl"
    assert float(data.change[2]) > 0.5 > float(data.random_change_high[2])


def test_held_at_its_own_value_nothing_changes() -> None:
    """At a single position the own value is one number, which can be asked for."""
    model = wrapped("llama")
    own = float(ll.record(model, IDS, "mlp_post")[f"mlp_post.{LAYER}"][0, 2, NEURON])
    data = ll.clamp(model, IDS, (LAYER, NEURON), [own], positions=2).data
    assert float(data.activation[2]) == pytest.approx(own)
    for name in ("change", "kl", "random_change", "random_kl"):
        assert float(data[name][0]) == pytest.approx(0, abs=1e-5)


def test_several_neurons_and_texts_are_what_each_is_alone() -> None:
    model, neurons = wrapped("gpt2"), [(0, 3), (-1, 8)]
    both = ll.clamp(model, [IDS, OTHER[:4]], neurons, VALUES, draws=3, **ASKED)
    assert both.data.neuron.values.tolist() == ["0.3", f"{model.n_layers - 1}.8"]
    assert both.data.change.dims == ("batch", "neuron", "value")
    for row, ids in enumerate((IDS, OTHER[:4])):
        for place, neuron in enumerate(neurons):
            alone = ll.clamp(model, ids, neuron, VALUES, draws=0, **ASKED).data
            np.testing.assert_allclose(both.data.change[row, place], alone.change, atol=1e-5)
            found = both.data.activation[row, place, : len(ids)]
            np.testing.assert_allclose(found, alone.activation, atol=1e-5)
    assert both.data.activation[1, 0, 4:].isnull().all()
    assert both.data.attrs["complete"] == 1
    assert both.data.token.dims == ("batch", "next")
    assert both.checks.ok


def test_a_layer_of_one_neuron_and_a_small_vocabulary_leave_nothing_open() -> None:
    hf = tiny_model("llama", seed=1, intermediate_size=1, vocab_size=5)
    model = LensModel.wrap(hf, None, name="one neuron", prove=False)
    found = ll.clamp(model, [1, 2, 3], (0, 0), VALUES)
    assert found.data.random_change.isnull().all()
    assert found.data.sizes["next"] == 5
    assert found.data.attrs["complete"] == 1


def test_values_are_multiples_of_how_large_the_neuron_gets() -> None:
    model = wrapped("llama")
    data = ll.clamp(model, IDS, (LAYER, NEURON), draws=0).data
    largest = float(abs(data.activation[1:]).max())
    np.testing.assert_allclose(data.value / largest, [-2, -1, -0.5, 0, 0.5, 1, 2, 3, 4], rtol=0.06)


@pytest.mark.parametrize(
    "wrong",
    [
        {"neuron": 3},
        {"neuron": (1, 2, 3)},
        {"neuron": (1, 9999)},
        {"neuron": (99, 0)},
        {"neuron": (0.5, 1)},
        {"neuron": []},
        {"neuron": [(0, 1), (0, 1)]},
        {"values": []},
        {"values": [1, 1]},
        {"values": [float("nan")]},
        {"values": "much"},
        {"draws": -1},
        {"positions": []},
    ],
    ids=str,
)
def test_what_does_not_fit_is_refused(wrong: dict[str, Any]) -> None:
    with pytest.raises(InputError):
        ll.clamp(wrapped("llama"), IDS, **{"neuron": (0, 0), **wrong})


def test_experts_have_no_neurons_of_their_own() -> None:
    model = LensModel.wrap(tiny_model("mixtral"), None, name="experts", prove=False)
    with pytest.raises(SiteError, match="mixture of experts"):
        ll.clamp(model, IDS, (0, 0))


@pytest.mark.parametrize("family", ["gemma2", "bert", "phi", "bloom"])
def test_other_families(family: str) -> None:
    """Norms after the MLP, both directions, parallel sublayers, no rotary embeddings."""
    model = LensModel.wrap(tiny_model(family, seed=1), None, name=family, prove=False)
    asked = ll.clamp(model, [5, 9, 4, 3], (1, 2), VALUES, draws=2, positions=-1)
    assert asked.checks.ok
    assert np.isfinite(asked.data.change).all()
