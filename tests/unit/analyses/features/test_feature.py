"""The page of a feature: planted ones, plain torch, counts that are known, and what it opens."""

from __future__ import annotations

from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

import layerlens as ll
from layerlens.analyses.contract import registry
from layerlens.analyses.contract.cells import FOUND, Opened, Place
from layerlens.analyses.features.effects import logit_effects
from layerlens.analyses.features.page.found_features import token_score
from layerlens.analyses.features.page.page_cell import STRENGTH
from layerlens.analyses.features.page.spread import BINS, Example, Spread, window
from layerlens.corpus.rows import Row
from layerlens.errors import InputError
from layerlens.model.lensmodel import LensModel
from layerlens.result import Result
from layerlens.result.fitted import Fitted
from layerlens.views.answer_cell import place_of

from .made import drawn, planted_words

TEXTS = ["cat dog owl fox cat dog owl", "owl pig owl", "fox cat bee", "dog dog owl hen cat owl pig"]
SMALL = {"k": 3, "bands": 2, "per_band": 2, "around": 2, "new_tokens": 3, "strengths": [-1, 2]}


@pytest.fixture(scope="module")
def model() -> LensModel:
    return ll.load("toy:induction")


@pytest.fixture(scope="module")
def planted(model: LensModel) -> Fitted:
    return planted_words(model)


@pytest.fixture(scope="module")
def page(model: LensModel, planted: Fitted) -> Result:
    return ll.feature(model, TEXTS, planted, 0, **SMALL)


def opened(model: LensModel, result: Result, place: Place) -> Opened:
    inputs, options = result.given or ({}, {})
    return registry.get("feature").open(model, inputs, options, place)


def example(value: float, number: int = 0) -> Example:
    return Example(value, Row(number, [number]), 0, 0, 1.0, torch.tensor([value]))


def test_bins_that_double_count_as_if_their_width_had_been_known() -> None:
    values = torch.rand(4, 500, generator=torch.Generator().manual_seed(0)).cumsum(0)
    spread = Spread(3, seed=0)
    for some in values:
        spread.add(some, lambda i, some=some: example(float(some[i]), i))
    spread.add_shuffled(values[0])
    flat = values.flatten().double().numpy()
    edges = np.arange(BINS + 1) * spread.width
    # a bin has its upper end, and numpy's the lower one
    assert spread.counts[::-1].tolist() == np.histogram(-flat, -edges[::-1])[0].tolist()
    assert spread.shuffled.sum() == 500 and spread.width > 0.9 * values[0].max() / BINS
    bands = list(spread.bands(4))
    assert bands[0].high == spread.largest == pytest.approx(flat.max()) and bands[-1].low == 0
    for band, below in pairwise(bands):
        assert band.low == pytest.approx(below.high)
    for band in bands:
        assert band.count == ((flat > band.low) & (flat <= band.high + 1e-9)).sum()
        assert len(band.examples) == min(3, band.count)
        assert all(band.low < one.activation <= band.high + 1e-6 for one in band.examples)


def test_examples_of_a_band_are_a_fair_draw() -> None:
    values = torch.linspace(0.01, 1, 80)
    taken = np.zeros(80)
    for seed in range(60):
        spread = Spread(4, seed)
        for start in (0, 40):  # the second half makes the bins double
            part = values[start : start + 40]
            spread.add(part, lambda i, s=start: example(float(values[s + i]), s + i))
        (band,) = spread.bands(1)
        taken[[one.row.number for one in band.examples]] += 1
    # 240 draws: each half has 120 of them, give or take four standard deviations
    assert taken.sum() == 240 and abs(taken[:40].sum() - 120) < 31


def test_a_planted_feature_is_on_at_its_word_and_nowhere_else(
    model: LensModel,
    page: Result,
) -> None:
    data, owl = page.data, model.token_id("owl")
    ids = [model.tokens(text).ids[0].tolist() for text in TEXTS]
    met = sum(row.count(owl) for row in ids)
    counted = sum(len(row) - 1 for row in ids)
    assert page.checks.ok
    assert (int(data.firings), int(data.counted)) == (met, counted)
    assert data.density == pytest.approx(met / counted)
    # before the first block nothing is about what stands around, so shuffling changes nothing
    assert data.shuffled_density == data.density
    assert int(data["count"].sum()) == int(data.band_count.sum()) == met
    there = data.token.values[data.text.values >= 0]
    assert set(there.tolist()) == {owl}
    first = data.isel(example=0)
    row = ids[int(first.text)]
    assert first.context_token.values.tolist() == window(row, int(first.position), 2)
    assert int(data.features) == 3 and float(data.sparser) == 1


def test_numbers_are_those_of_plain_torch(model: LensModel) -> None:
    sae = drawn(model)
    states = [
        ll.record(model, text, "resid_post.0")["resid_post.0"][0, 1:].float() for text in TEXTS
    ]
    encoded = []
    for x in states:
        mean, deviation = x.mean(1, keepdim=True), x.std(1, keepdim=True) + 1e-5
        pre = ((x - mean) / deviation - sae["b_dec"]) @ sae["W_enc"]
        best = pre.topk(5)
        encoded.append(torch.zeros_like(pre).scatter(1, best.indices, best.values.relu()))
    every = torch.cat(encoded)
    number = int(every.amax(0).argmax())
    data = ll.feature(model, TEXTS, sae, number, **SMALL).data
    assert data.density == pytest.approx(float((every[:, number] > 0).float().mean()))
    best = sorted((float(one[:, number].max()) for one in encoded), reverse=True)
    found = data.activation.values[:3]
    assert found[np.isfinite(found)] == pytest.approx([one for one in best[:3] if one > 0])
    on = (every > 0).sum(0)
    apart = (on - on[number]).abs()
    apart[(on == 0) | (torch.arange(len(on)) == number)] = 999
    assert int(data.other_feature) == int(apart.argmin())
    rows = torch.nn.functional.normalize(sae["W_dec"], dim=1)
    cosines = rows @ rows[number]
    assert data.neighbour.values.tolist() == cosines.topk(9).indices[1:].tolist()


def test_taking_it_out_is_the_edit_that_does_so(
    model: LensModel,
    page: Result,
    planted: Fitted,
) -> None:
    data = page.data
    text, at = int(data.text[0]), int(data.position[0])
    step = -float(data.activation[0]) * planted["W_dec"][0]

    def said(step: torch.Tensor) -> torch.Tensor:
        edits = [ll.edit("resid_pre.0", "add", step, position=at)]
        return ll.run(model, TEXTS[text], edits=edits).logits[0, at].float().log_softmax(-1)

    own = said(0 * step)
    for name, row in (("kl_without", 0), ("other_kl_without", int(data.other_feature))):
        other = planted["W_dec"][row] / planted["W_dec"][row].norm() * step.norm()
        kl = (own.exp() * (own - said(-other))).sum()
        assert float(data[name][0]) == pytest.approx(float(kl), rel=1e-3, abs=1e-5)


@pytest.mark.parametrize("site", ["resid_post", "z"])
def test_a_steered_text_is_what_generate_writes(
    model: LensModel, tmp_path: Path, site: str
) -> None:
    sae = ll.open(drawn(model, site=site).save(tmp_path / "sae.safetensors"))
    number = int(ll.features(model, TEXTS[0], sae, k=1).data.feature[0])
    found = ll.feature(model, TEXTS, sae, number, prompt="cat dog owl", **SMALL)
    data = found.data
    answer = {str(name): array.values for name, array in data.data_vars.items()}
    for strength in (2.0, 0.75):
        step = strength * float(data.scale) * sae["W_dec"][number]
        if site == "z":
            step = step.unflatten(0, (model.anatomy.blocks[0].n_heads, -1))
        edit = ll.edit(f"{site}.0", "add", step, always=True)
        ids = model.generate("cat dog owl", 3, edit).new_ids
        place = Place("steered_token", {STRENGTH: strength}, 0.0, answer=answer)
        cell = opened(model, found, place)
        assert [word for word, _ in cell.texts[0]] == [model.token_string(i) for i in ids]
        assert eval(cell.code, {"ll": ll, "model": model}).new_ids == ids
        if strength in data.strength:
            once = ll.edit(f"{site}.0", "add", step)
            runs = (ll.run(model, "cat dog owl", edits=some) for some in ([], [once]))
            own, moved = (run.logits[0, -1].float().log_softmax(-1) for run in runs)
            kl = float((own.exp() * (own - moved)).sum())
            assert float(data.steer_kl.sel(strength=strength)) == pytest.approx(kl, 1e-3, 1e-6)
            assert data.steered_token.sel(strength=strength).values.tolist() == ids


def test_it_is_found_by_the_token_that_it_is_on_at_and_raises(
    model: LensModel,
    page: Result,
    planted: Fitted,
) -> None:
    for word, number in (("owl", "0"), ("dog", "1")):
        cell = opened(model, page, Place("", {FOUND: model.token_id(word)}, 0.0))
        on, raising = cell.tables
        assert on.rows[0][0] == number and on.rows[0][1] == 1.0 and on.rows[0][3] == 0.0
        assert raising.rows[-1][0] == "random, best" and on.opens[0] == (
            "feature",
            {"feature": int(number)},
        )
    tokens, scores = logit_effects(model, planted["W_dec"], 1, lambda: None)
    top = int(tokens[1, 0, 0])
    assert token_score(model, planted["W_dec"], top)[1] == pytest.approx(float(scores[1, 0, 0]))
    nowhere = opened(model, page, Place("", {FOUND: model.token_id("wolf")}, 0.0))
    assert "not in these texts" in nowhere.tables[0].head[0]


def test_an_example_opens_its_whole_text(model: LensModel, page: Result) -> None:
    cell = opened(model, page, place_of(page.data, {"array": "activation", "index": [0]}))
    text = int(page.data.text[0])
    assert "".join(word for word, _ in cell.texts[0]) == "".join(
        model.tokens(TEXTS[text]).strings[0]
    )
    assert cell.title.startswith("Feature 0 of layer 0 at 'owl'")
    gone = page.data.assign(text=-1 + 0 * page.data.text)
    with pytest.raises(InputError, match="no such example"):
        opened(model, page, place_of(gone, {"array": "activation", "index": [0]}))


def test_of_several_layers_it_says_where(model: LensModel) -> None:
    sae = drawn(model, layers=[0, 1])
    number = int(ll.features(model, TEXTS[0], sae, k=1).data.feature[0])
    found = ll.feature(model, TEXTS, sae, number, **SMALL)
    data = found.data
    assert found.checks.ok and data.layer_share.sum() == pytest.approx(1)
    assert data.all_layer_share.sum() == pytest.approx(1)
    on = np.zeros(2)
    for text in TEXTS:
        own = ll.features(model, text, sae, features=[number]).data.activation
        on += own.values[:, 0, 1:].sum(-1)
    np.testing.assert_allclose(data.layer_share, on / sum(on), rtol=1e-4)
    assert int(data.at_layer[0]) == int(data.steered_layer) in (0, 1)


def test_a_feature_that_is_never_on_still_has_a_page(model: LensModel, planted: Fitted) -> None:
    found = ll.feature(model, ["cat fox bee"], planted, 2, **SMALL, draws=0)
    data = found.data
    assert found.checks.ok and int(data.firings) == 0 and np.isnan(data.activation).all()
    assert "never on" in " ".join(found.data.attrs["notes"].split())
    assert "shuffled_count" not in data and np.isfinite(data.effect_score).all()
    assert np.isfinite(data.steer_kl).all()


@pytest.mark.parametrize(
    ("options", "said"),
    [
        ({"number": 3}, "There is no feature 3: this dictionary has 3"),
        ({"k": 0}, "k is 0; expected a number from 1"),
        ({"strengths": [1, 1]}, "different finite numbers"),
        ({"sae": None}, "sae is none"),
    ],
)
def test_what_does_not_fit_is_said(
    model: LensModel,
    planted: Fitted,
    options: dict[str, Any],
    said: str,
) -> None:
    with pytest.raises(InputError, match=said):
        ll.feature(model, TEXTS, **{"sae": planted} | options)
