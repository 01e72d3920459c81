"""Tokens of neurons: against plain torch, and on neurons that were planted."""

from __future__ import annotations

import numpy as np
import pytest
import torch

import layerlens as ll
from layerlens.errors import InputError, ModelError
from layerlens.model.lensmodel import LensModel
from layerlens.model.tiny import tiny_model


@pytest.fixture
def model() -> LensModel:
    return ll.load("toy:induction")


def plain_logits(model: LensModel, layer: int) -> torch.Tensor:
    """What each neuron's output adds to the logits, from the modules of transformers."""
    hf = model.hf
    down = hf.model.layers[layer].mlp.down_proj.weight.detach()
    return (hf.lm_head.weight.detach() @ (hf.model.norm.weight.detach()[:, None] * down)).T


def test_both_ends_are_those_of_a_plain_sort(model: LensModel) -> None:
    data = ll.neuron_tokens(model, k=4).data
    for layer in range(model.n_layers):
        order = plain_logits(model, layer).argsort(descending=True)
        np.testing.assert_array_equal(data.token.sel(layer=layer, side="largest"), order[:, :4])
        flipped = order.flip(1)[:, :4]
        np.testing.assert_array_equal(data.token.sel(layer=layer, side="smallest"), flipped)


def test_a_planted_neuron_has_its_token_first_and_its_opposite_has_it_last(
    model: LensModel,
) -> None:
    token, down = model.token_id("dog"), model.hf.model.layers[1].mlp.down_proj.weight
    head = model.hf.lm_head.weight.detach()
    kept = down.detach().clone()
    row = head[token] / head[token].norm()
    with torch.no_grad():
        down[:, 3], down[:, 5] = 100 * row, -100 * row
    try:
        data = ll.neuron_tokens(model, "dog", k=3, norm="none", rank="cosine").data
    finally:
        with torch.no_grad():
            down.copy_(kept)
    assert int(data.token.sel(layer=1, neuron=3, side="largest")[0]) == token
    assert int(data.token.sel(layer=1, neuron=5, side="smallest")[0]) == token
    assert float(data.score.sel(layer=1, neuron=3, side="largest")[0]) == pytest.approx(1, abs=1e-5)
    found = data.isel(tracked=0, rank=0)
    assert (int(found.found_layer), int(found.found_neuron)) == (1, 3)
    assert float(found.found_score) > float(found.random_found_score)


def test_scores_of_neurons_add_up_to_what_the_mlp_does_to_the_logits(model: LensModel) -> None:
    every = [model.token_string(token) for token in range(model.d_vocab)]
    scores = ll.neuron_tokens(model, every, norm="none", layers=[1]).data.tracked_score[0].values
    trace = ll.record(model, "cat dog owl cat", ["mlp_post", "mlp_out"])
    with torch.no_grad():
        expected = model.hf.lm_head(trace["mlp_out.1"])
    given = trace["mlp_post.1"].float() @ torch.from_numpy(scores)
    torch.testing.assert_close(given, expected, atol=1e-4, rtol=1e-4)


def test_zscore_is_each_tokens_logit_over_the_neurons(model: LensModel) -> None:
    logits = plain_logits(model, 0)
    expected = (logits - logits.mean(0)) / logits.std(0, correction=0)
    data = ll.neuron_tokens(model, "dog", layers=0, rank="zscore").data
    theirs = data.tracked_score[0, :, 0]
    np.testing.assert_allclose(theirs, expected[:, model.token_id("dog")], atol=1e-4)


def test_prominence_is_how_far_the_first_token_stands_out(model: LensModel) -> None:
    logits = plain_logits(model, 1)
    expected = (logits.amax(1) - logits.mean(1)) / logits.std(1, correction=0)
    data = ll.neuron_tokens(model, layers=[1]).data
    np.testing.assert_allclose(data.prominence[0], expected, rtol=1e-4)
    assert float(data.median_prominence[0]) == pytest.approx(float(expected.median()), rel=1e-4)


def test_input_and_gate_are_rows_of_up_and_gate(model: LensModel) -> None:
    for direction, name in (("input", "up_proj"), ("gate", "gate_proj")):
        weight = getattr(model.hf.model.layers[0].mlp, name).weight.detach()
        best = (weight @ model.hf.lm_head.weight.detach().T).argmax(1)
        data = ll.neuron_tokens(model, layers=0, k=1, direction=direction, norm="none").data
        np.testing.assert_array_equal(data.token[0, :, 0, 0], best)


@pytest.mark.parametrize(
    "wrong", [{"direction": "up"}, {"norm": "beta"}, {"rank": "p"}, {"k": 0}, {"layers": 99}]
)
def test_what_does_not_fit_is_refused(model: LensModel, wrong: dict[str, object]) -> None:
    with pytest.raises(InputError):
        ll.neuron_tokens(model, **wrong)


def test_a_model_without_a_gate_says_so() -> None:
    with pytest.raises(InputError, match="no weight 'gate'"):
        ll.neuron_tokens(LensModel.wrap(tiny_model("gpt2"), None, name="gpt2"), direction="gate")


def test_a_head_behind_something_nonlinear_is_refused() -> None:
    bert = LensModel.wrap(tiny_model("bert"), None, name="bert")
    with pytest.raises(ModelError, match="not linear"):
        ll.neuron_tokens(bert)
