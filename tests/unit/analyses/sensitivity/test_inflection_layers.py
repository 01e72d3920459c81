"""Saturated layers: entropies and gradients of plain transformers, summits, another checkpoint."""

from __future__ import annotations

import json
from typing import Any

import numpy as np
import pytest
import torch

import layerlens as ll
from layerlens.analyses.sensitivity.inflection_run import saturation
from layerlens.analyses.sensitivity.picked_layers import picked, summits
from layerlens.errors import InputError, ModelError
from layerlens.model.lensmodel import LensModel
from layerlens.model.tiny import tiny_model

from .. import by_hooks, without
from .test_gradient_norms import by_hand

TEXTS = without.TEXTS[::2]


@pytest.fixture(scope="module")
def found() -> ll.Result:
    return ll.inflection_layers(by_hooks.wrapped("llama"), TEXTS, skip_first=1)


def test_raw_curves_are_those_of_plain_transformers(found: ll.Result) -> None:
    assert found.checks.ok and found.data.attrs["complete"] == 1
    states, weights, entropies = [], [], []
    for ids in TEXTS:
        by_state, by_weight, _ = by_hand("llama", ids, 1)
        hf = by_hooks.plain("llama")
        hf.set_attn_implementation("eager")
        with torch.no_grad():
            patterns = hf(torch.tensor([ids]), output_attentions=True).attentions
        entropies.append([float(torch.special.entr(p[0, :, 1:]).sum(-1).mean()) for p in patterns])
        states.append(by_state[1:])
        weights.append(by_weight)
    for name, each in (("gradient_by_state", states), ("gradient_by_weights", weights)):
        np.testing.assert_allclose(found.data[name], np.mean(each, axis=0), rtol=1e-4)
    np.testing.assert_allclose(found.data.attention_entropy, np.mean(entropies, 0), rtol=1e-4)
    # Of three layers, the published sum by hand.
    h, g = (found.data[n].values for n in ("attention_entropy", "gradient_by_state"))
    by_formula = sum((x.max() - x) / (x.max() - x.min()) for x in (h, g)) / 2
    np.testing.assert_allclose(found.data.saturation, by_formula, rtol=1e-6)


def test_shuffled_tokens_are_the_same_ones_in_another_order(found: ll.Result) -> None:
    """With three tokens and the first one fixed, there are two orders; one of them is the text."""
    texts = [[5, 17, 20], [9, 30, 71]]
    orders = [[[a, *rest], [a, *rest[::-1]]] for a, *rest in texts]
    model = by_hooks.wrapped("llama")
    got = ll.inflection_layers(model, texts, skip_first=False, seed=4).data.gradient_by_state_chance
    mixed = [[by_hand("llama", ids, 0)[0][1:] for ids in pair] for pair in orders]
    choices = [np.mean([one, other], axis=0) for one in mixed[0] for other in mixed[1]]
    assert any(np.allclose(got, choice, rtol=1e-4) for choice in choices)


def test_a_summit_that_some_texts_lack_is_no_inflection() -> None:
    """The chance that a resample of two texts leaves one of them out is a quarter."""
    steady, moved = [0, 1, 5, 1, 0], [0, 1, 1, 9, 0]
    assert picked(summits, np.array([steady, steady], float)).tolist() == [0, 0, 1, 0, 0]
    share = picked(summits, np.array([steady, moved], float))
    assert share[2] == pytest.approx(0.25, abs=0.04) and share[3] == pytest.approx(0.75, abs=0.04)


def test_saturation_is_high_where_both_are_low() -> None:
    both = np.array([[[4.0, 2.0, 0.0, 4.0], [1.0, 0.5, 0.0, 1.0]]])
    np.testing.assert_allclose(saturation(both, 0.5), [[0, 0.5, 1, 0]])
    np.testing.assert_allclose(saturation(both[:, ::-1], 1.0), [[0, 0.5, 1, 0]])
    lacking = both.copy()
    lacking[0, 0, 1] = np.nan
    np.testing.assert_allclose(saturation(lacking, 0.5), [[0, np.nan, 1, 0]])


def test_another_checkpoint_differs_from_where_its_weights_do() -> None:
    model, trained = by_hooks.wrapped("llama"), by_hooks.wrapped("llama")
    with torch.no_grad():
        generator = torch.Generator().manual_seed(0)
        for p in by_hooks.blocks(trained.hf)[1].parameters():
            p += torch.randn(p.shape, generator=generator)
    texts = [list(range(5, 25)), list(range(30, 60))]
    found = ll.inflection_layers(model, texts, other=trained, control=False)
    assert found.checks.ok and "attention_entropy_chance" not in found.data
    change = found.data.cka_change.values
    assert abs(change[0]) < 1e-6 and (change[1:] > 0.05).all()
    assert float(found.data.cka_change_chance.min()) > 0.8
    np.testing.assert_allclose(found.data.kept_variance, 1, atol=1e-6)  # 64 of 16 dimensions


def test_cka_is_that_of_the_components_asked_for() -> None:
    """One component: CKA is the squared correlation along it, here without its bias."""
    model, other = by_hooks.wrapped("llama"), by_hooks.wrapped("gpt2")
    texts = [list(range(5, 45)), list(range(50, 90))]
    found = ll.inflection_layers(model, texts, other=other, components=1, control=False).data
    rows = []
    for family in ("llama", "gpt2"):
        states = [without.run(by_hooks.plain(family), ids)[0][2][1:] for ids in texts]
        both = torch.cat(states).double()
        rows.append(both - both.mean(0))
    direction = torch.linalg.svd(torch.cat(rows), full_matrices=False).Vh[0]
    mine, theirs = (one @ direction for one in rows)
    squared = float(torch.corrcoef(torch.stack([mine, theirs]))[0, 1] ** 2)
    assert 1 - float(found.cka_change[1]) == pytest.approx(squared, abs=2 / len(mine))


def test_it_says_which_layers_are_inflections(found: ll.Result) -> None:
    [note] = json.loads(found.data.attrs["notes"])
    sure = np.flatnonzero(found.data.inflection >= 0.8)
    assert ("No layer is surely" in note) == (not len(sure))
    assert all(str(layer) in note for layer in sure) and "shuffled" in note


@pytest.mark.parametrize(
    ("texts", "options", "words"),
    [
        (TEXTS[:1], {}, "one text"),
        (TEXTS, {"a": 2.0}, "weight from 0 to 1"),
        (TEXTS, {"skip_first": 4}, "shortest text has 5"),
        (TEXTS, {"other": "gpt2"}, "model from ll.load"),
        (TEXTS, {"components": 0, "other": True}, "components"),
        (TEXTS, {"components": 3}, "other"),
    ],
)
def test_what_does_not_fit_is_refused(texts: Any, options: dict[str, Any], words: str) -> None:
    model = by_hooks.wrapped("gpt2")
    if options.get("other") is True:
        options = options | {"other": model}
    with pytest.raises(InputError, match=words):
        ll.inflection_layers(model, texts, **options)


def test_a_model_without_attention_is_refused_by_name() -> None:
    mamba = LensModel.wrap(tiny_model("mamba"), None, name="tiny mamba", prove=False)
    with pytest.raises(ModelError, match="inflection_layers cannot be asked of tiny mamba"):
        ll.inflection_layers(mamba, TEXTS)
