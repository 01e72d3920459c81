"""The page of a neuron: what it joins is what the parts say, and plain hooks."""

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

from ..by_hooks import FAMILIES, IDS, OTHER, part, plain, wrapped

LAYER, NEURON = 1, 5
TEXTS = [IDS, OTHER[:4], [7, 8, 9, 10, 11]]


def activations(family: str) -> list[Tensor]:
    """What the last projection is given, ``[position, neuron]`` of each text, by a plain hook."""
    hf, found = plain(family), []
    module = part(hf, LAYER, "neurons")
    handle = module.register_forward_pre_hook(lambda m, args: found.append(args[0][0].clone()))
    with torch.no_grad():
        for ids in TEXTS:
            hf(torch.tensor([ids]))
    handle.remove()
    return found


@pytest.mark.parametrize("family", FAMILIES)
def test_places_and_how_often_it_is_on_by_hand(family: str) -> None:
    data = ll.neuron(wrapped(family), TEXTS, LAYER, NEURON, k=3, draws=0, epsilon=0.2).data
    every = activations(family)
    best = sorted(
        ((float(a[1:, NEURON].max()), text, 1 + int(a[1:, NEURON].argmax()))
         for text, a in enumerate(every)), reverse=True
    )  # fmt: skip
    np.testing.assert_allclose(data.activation, [value for value, *_ in best], atol=1e-5)
    assert list(zip(data.text.values, data.position.values, strict=True)) == [b[1:] for b in best]
    assert [TEXTS[text][at] for _, text, at in best] == data.token.values.tolist()
    counted = torch.cat([a[1:] for a in every])
    on = counted.abs() > 0.2 * counted.abs().amax(1, keepdim=True)
    assert float(data.firing) == pytest.approx(float(on[:, NEURON].double().mean()))
    assert float(data.layer_firing) == pytest.approx(float(on.double().mean()))
    assert int(data.counted) == len(counted)


@pytest.mark.parametrize("family", FAMILIES)
def test_what_its_removal_does_equals_a_plain_hook(family: str) -> None:
    result = ll.neuron(wrapped(family), TEXTS, LAYER, NEURON, k=3)
    hf = plain(family)
    module = part(hf, LAYER, "neurons")
    for rank in range(3):
        text, at = (int(result.data[name][rank]) for name in ("text", "position"))

        def off(_: Any, args: Any, at: int = at) -> Any:
            given = args[0].clone()
            given[0, at, NEURON] = 0
            return (given, *args[1:])

        with torch.no_grad():
            ids = torch.tensor([TEXTS[text]])
            before = hf(ids).logits[0, at].double().log_softmax(-1)
            handle = module.register_forward_pre_hook(off)
            after = hf(ids).logits[0, at].double().log_softmax(-1)
            handle.remove()
        kl = float((before.exp() * (before - after)).sum())
        assert float(result.data.kl_without[rank]) == pytest.approx(kl, rel=1e-2, abs=1e-9)
    assert result.checks.ok
    assert (result.data.random_kl_without > 0).all()


def test_its_tokens_are_those_of_the_table_of_all_neurons() -> None:
    model = ll.load("toy:induction")
    page = ll.neuron(model, ["cat dog owl cat"], -1, 3, k=4, draws=0).data
    for direction, ends in (("output", ("raised", "lowered")), ("input", ("read",)),
                            ("gate", ("gate",))):  # fmt: skip
        found = ll.neuron_tokens(model, layers=-1, k=4, direction=direction).data.isel(layer=0)
        for side, end in enumerate(ends):
            theirs = found.sel(neuron=3).isel(side=side)
            np.testing.assert_array_equal(page[f"{end}_token"], theirs.token)
            np.testing.assert_allclose(page[f"{end}_score"], theirs.score, rtol=1e-5)
        if direction == "output":
            assert float(page.prominence) == pytest.approx(float(found.prominence[3]), rel=1e-5)


def test_a_planted_neuron_is_told_by_its_page() -> None:
    """It is on where the text says "cat", and writes "owl": the page says both."""
    model = ll.load("toy:induction")
    mlp, token = model.hf.model.layers[1].mlp, model.token_id("owl")
    stream = ll.record(model, "dog cat pony", "resid_mid")["resid_mid.1"][0]
    read = model.hf.model.layers[1].post_attention_layernorm(stream).detach()
    cat = read[2] - read[[1, 3]].mean(0)
    kept = [weight.detach().clone() for weight in (mlp.gate_proj.weight, mlp.up_proj.weight,
                                                   mlp.down_proj.weight)]  # fmt: skip
    with torch.no_grad():
        mlp.gate_proj.weight[3] = mlp.up_proj.weight[3] = cat
        mlp.down_proj.weight[:, 3] = model.hf.lm_head.weight[token]
    try:
        texts = ["dog cat pony", "pony dog", "ant ox"]
        page = ll.neuron(model, texts, 1, 3, k=2, norm="none", epsilon=0.3).data
    finally:
        with torch.no_grad():
            for weight, old in zip((mlp.gate_proj.weight, mlp.up_proj.weight,
                                    mlp.down_proj.weight), kept, strict=True):  # fmt: skip
                weight.copy_(old)
    assert (int(page.text[0]), model.token_string(int(page.token[0]))) == (0, "cat")
    assert model.token_string(int(page.raised_token[0])) == "owl"
    assert float(page.kl_without[0]) > 2 * float(page.random_kl_without[0])
    assert float(page.firing) < 1


def test_a_model_without_a_gate_has_no_tokens_of_it() -> None:
    data = ll.neuron(wrapped("gpt2"), TEXTS, LAYER, NEURON, k=2).data
    assert "gate_token" not in data
    assert "read_token" in data


def test_fewer_texts_than_places_leave_nothing_open() -> None:
    data = ll.neuron(wrapped("llama"), TEXTS[:1], LAYER, NEURON, k=4).data
    assert data.kl_without.notnull().values.tolist() == [True, False, False, False]
    assert data.attrs["complete"] == 1


@pytest.mark.parametrize(
    "wrong",
    [{"number": 9999}, {"layer": 9}, {"k": 0}, {"side": "up"}, {"norm": "beta"}, {"draws": -1},
     {"skip_first": 50}, {"epsilon": 2}],
    ids=str,
)  # fmt: skip
def test_what_does_not_fit_is_refused(wrong: dict[str, Any]) -> None:
    with pytest.raises(InputError):
        ll.neuron(wrapped("llama"), TEXTS, **wrong)


def test_experts_have_no_neurons_of_their_own() -> None:
    model = LensModel.wrap(tiny_model("mixtral"), None, name="experts", prove=False)
    with pytest.raises(SiteError, match="mixture of experts"):
        ll.neuron(model, TEXTS)


def test_it_is_drawn_for_paper_too() -> None:
    page = ll.neuron(ll.load("toy:induction"), ["cat dog owl cat", "owl cat dog owl"], 1, 7, k=2)
    assert page.figure().axes
