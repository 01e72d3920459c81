"""The features of a text: planted ones, plain torch, and what a cell does to the next token."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch

import layerlens as ll
from layerlens.analyses.contract import registry
from layerlens.analyses.contract.cells import Opened
from layerlens.analyses.features.dictionaries.dictionary import Dictionary, Form
from layerlens.errors import InputError
from layerlens.model.lensmodel import LensModel
from layerlens.result import Result
from layerlens.result.fitted import Fitted
from layerlens.views.answer_cell import place_of

from .made import WIDTH, drawn, fitted, planted_words

TEXT = "cat dog owl fox cat dog owl"


@pytest.fixture(scope="module")
def model() -> LensModel:
    return ll.load("toy:induction")


@pytest.fixture(scope="module")
def planted(model: LensModel) -> Fitted:
    return planted_words(model)


def opened(model: LensModel, result: Result, array: str, *index: int) -> Opened:
    inputs, options = result.given or ({}, {})
    place = place_of(result.data, {"array": array, "index": list(index)})
    return registry.get("features").open(model, inputs, options, place)


def test_planted_features_are_on_at_their_tokens(model: LensModel, planted: Fitted) -> None:
    data = ll.features(model, TEXT, planted).data.isel(position=slice(1, None))
    on = data.activation > 0
    words = data.token.values
    assert sorted(data.feature.values.tolist()) == [0, 1]
    for number, word in ((0, "owl"), (1, "dog")):
        assert (on.sel(feature=number).values == (words == word)).all()
    # before the first block nothing is about what stands around
    np.testing.assert_allclose(data.shuffled_activation, data.activation, atol=1e-5)
    assert data.l0.values.tolist() == on.sum("feature").values.tolist()
    assert data.density.sel(feature=1) == pytest.approx(0.2)


def test_numbers_are_those_of_plain_torch(model: LensModel) -> None:
    sae = drawn(model)
    result = ll.features(model, TEXT, sae, k=7)
    data, x = result.data, ll.record(model, TEXT, "resid_post.0")["resid_post.0"][0, 1:].float()
    assert result.checks.ok
    mean, deviation = x.mean(1, keepdim=True), x.std(1, keepdim=True) + 1e-5
    pre = ((x - mean) / deviation - sae["b_dec"]) @ sae["W_enc"]
    kept = torch.zeros_like(pre).scatter(1, pre.topk(5).indices, pre.topk(5).values.relu())
    y = (kept @ sae["W_dec"] + sae["b_dec"]) * deviation + mean
    strongest = kept.amax(0).topk(7).indices
    assert data.feature.values.tolist() == strongest.tolist()
    np.testing.assert_allclose(data.activation[:, 1:], kept[:, strongest].T, atol=1e-5)
    left, around = (x - y).square().sum(1), (x - x.mean(0)).square().sum(1)
    np.testing.assert_allclose(data.explained[1:], 1 - left / around, rtol=1e-4)
    np.testing.assert_allclose(data.error[1:], left.sqrt() / x.norm(dim=1), rtol=1e-4)
    assert np.isnan(data.activation[:, 0]).all() and int(data.l0[0]) == -1
    gain = model.hf.model.norm.weight.detach()
    logits = sae["W_dec"][strongest] * gain @ model.hf.lm_head.weight.detach().T
    logits = logits - logits.mean(1, keepdim=True)
    for side, sign in ((0, 1), (1, -1)):
        best = (sign * logits).topk(8)
        np.testing.assert_array_equal(data.effect_token[:, side], best.indices)
        np.testing.assert_allclose(data.effect_score[:, side], sign * best.values, atol=1e-4)


def test_random_directions_explain_less_than_a_basis_that_fits(model: LensModel) -> None:
    states = ll.record(model, TEXT, "resid_post.0")["resid_post.0"][0, 1:].float()
    rows = torch.nn.functional.normalize(states, dim=1)  # each token's own direction
    arrays = {"W_enc": rows.T.contiguous(), "W_dec": rows, "b_enc": torch.zeros(len(rows))}
    arrays["b_dec"] = torch.zeros(WIDTH)
    own = fitted(model, Form("topk", k=1, centred_input=False), arrays)
    data = ll.features(model, TEXT, own).data.isel(position=slice(1, None))
    np.testing.assert_allclose(data.explained, 1, atol=1e-4)
    assert (data.random_explained < 0.5).all()
    assert (abs(data.shuffled_activation - data.activation) > 1e-3).any()  # of what stands around


@pytest.mark.parametrize("site", ["resid_post", "z"])
def test_a_cell_steers_as_the_edit_beside_it(model: LensModel, site: str) -> None:
    sae = drawn(model, site=site)
    result = ll.features(model, TEXT, sae, k=4)
    row, at = (int(i[0]) for i in np.nonzero(result.data.activation.values > 0))
    found = opened(model, result, "activation", row, at)
    feature = int(result.data.feature[row])
    activation = float(result.data.activation[row, at])
    x = ll.record(model, TEXT, f"{site}.0")[f"{site}.0"][0, at].float().flatten()[None]
    direction = activation * float(Dictionary.of(sae).factor(x)) * sae["W_dec"][feature]
    if site == "z":
        direction = direction.unflatten(0, (model.anatomy.blocks[0].n_heads, -1))
    table = found.tables[0]
    for column, sign in ((1, 0), (2, -1), (3, 1)):
        edits = [ll.edit(f"{site}.0", "add", sign * direction, position=at)]
        chances = ll.run(model, TEXT, edits=edits).logits[0, at].softmax(-1)
        for row_of_table in table.rows:
            token = model.token_id(str(row_of_table[0]))
            assert row_of_table[column] == pytest.approx(float(chances[token]), abs=1e-5)
    assert "'add'" in found.code and f"['W_dec'][{feature}]" in found.code
    assert ("effect_token" in result.data) == (site != "z")
    [tokens] = found.texts
    assert tokens[at][1] > 0
    assert found.tables[-1].rows[-1][0] == "random"


def test_the_code_of_a_cell_runs(model: LensModel, tmp_path: Any) -> None:
    sae = drawn(model)
    opened_again = ll.open(sae.save(tmp_path / "sae.safetensors"))
    result = ll.features(model, TEXT, opened_again, k=4)
    found = opened(
        model, result, "activation", 0, int(np.nanargmax(result.data.activation[0].values))
    )
    at = int(found.title.split("position ")[1].split(")")[0])
    chances = eval(found.code, {"ll": ll, "model": model}).logits[0, at].softmax(-1)
    for token, *_, doubled, _ in found.tables[0].rows:
        assert doubled == pytest.approx(float(chances[model.token_id(str(token))]), abs=1e-5)


def test_several_layers_and_texts(model: LensModel) -> None:
    sae = drawn(model, layers=[0, 1])
    found = ll.features(model, [TEXT, "pig owl pig"], sae, features=[3, 90], draws=0)
    assert found.checks.ok and "shuffled_activation" not in found.data
    assert found.data.activation.dims == ("batch", "layer", "feature", "position")
    alone = ll.features(model, "pig owl pig", sae, features=[3, 90], draws=0).data
    np.testing.assert_allclose(
        found.data.activation[1, :, :, :4], alone.activation, atol=1e-5, equal_nan=True
    )
    assert np.isnan(found.data.activation[1, :, :, 4:]).all()


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"features": [96]}, "There is no feature 96"),
        ({"k": 0}, "k is 0"),
        ({"features": [1], "k": 3}, "k of features has an effect only"),
        ({"draws": -1}, "draws is -1"),
    ],
    ids=str,
)
def test_wrong_options(model: LensModel, options: dict[str, Any], words: str) -> None:
    with pytest.raises(InputError, match=words):
        ll.features(model, TEXT, drawn(model), **options)


def test_a_text_in_which_nothing_is_on(model: LensModel, planted: Fitted) -> None:
    with pytest.raises(InputError, match="No feature is on in this text"):
        ll.features(model, "ant ant", planted)
    with pytest.raises(InputError, match="No token counts"):
        ll.features(model, [61], planted)
