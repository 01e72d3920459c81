"""Depth by text: from what leaving layers out does, of planted layers, and against difficulty."""

from __future__ import annotations

import numpy as np
import pytest
import torch

import layerlens as ll
from layerlens.analyses.depth.depth_score import depth_of
from layerlens.analyses.depth.difficulty import Difficulty
from layerlens.errors import InputError

from .. import by_hooks, without

TEXTS = without.TEXTS


def test_the_mean_layer() -> None:
    assert depth_of(np.ones(7)) == 3  # (L - 1) / 2
    assert depth_of(np.eye(7)).tolist() == [0, 1, 2, 3, 4, 5, 6]
    assert np.isnan(depth_of(np.zeros(3)))


@pytest.mark.parametrize("options", [{}, {"effect": "future", "cuts": [3], "reduce": "mean"}])
@pytest.mark.parametrize("by", ["layers", "output"])
def test_it_weighs_what_leaving_layers_out_does(by: str, options: dict) -> None:
    model = by_hooks.wrapped("llama")
    found = ll.depth_score(model, [TEXTS[0], TEXTS[2]], by=by, **options)
    assert found.checks.ok and found.data.attrs["complete"] == 1
    for row, text in enumerate((TEXTS[0], TEXTS[2])):
        skipped = ll.skip_layers(model, text, **options).data
        if by == "output":
            effects = skipped.output_effect.values.astype(float)
        else:
            effects = [skipped.effect.values[i, i + 1 :].mean() for i in range(2)]
        expected = (np.arange(len(effects)) * effects).sum() / np.sum(effects)
        assert float(found.data.depth[row]) == pytest.approx(expected, abs=1e-5)


def test_planted_layers_are_found() -> None:
    """A layer that writes nothing cannot be missed: all depth lies in the other."""
    for silent, depth in ((1, 0.0), (0, 1.0)):
        model = by_hooks.wrapped("llama")
        without.silence(model.hf, silent)
        assert float(ll.depth_score(model, TEXTS[0]).data.depth[0]) == depth


def test_difficulty_that_is_depth_itself() -> None:
    model = by_hooks.wrapped("llama")
    random = np.random.default_rng(0)
    texts = [random.integers(3, 90, 4 + i % 3).tolist() for i in range(12)]
    plain = ll.depth_score(model, texts).data
    assert "correlation" not in plain and "group_depth" not in plain
    depths = plain.depth.values
    found = ll.depth_score(model, ll.texts(texts, label=(2 * depths + 1).tolist())).data
    assert float(found.correlation) == pytest.approx(1)
    assert float(found.slope) == pytest.approx(0.5)
    assert 0.2 < float(found.correlation_chance) < 0.9
    named = ["deep" if d > np.median(depths) else "shallow" for d in depths]
    words = ll.depth_score(model, ll.texts(texts, label=named)).data
    assert words.group.values.tolist() == list(dict.fromkeys(named))
    assert "slope" not in words
    for place, name in enumerate(words.group.values):
        mean = depths[np.array(named) == name].mean()
        assert float(words.group_depth[place]) == pytest.approx(mean)


def test_correlations_are_numpys() -> None:
    random = np.random.default_rng(1)
    numbers, labels = random.normal(size=30), random.integers(0, 4, 30)
    one = np.ones((1, 30))
    r = Difficulty(labels.tolist()).correlation(numbers, one)[0]
    assert r == pytest.approx(np.corrcoef(numbers, labels)[0, 1])
    eta = Difficulty([f"g{i}" for i in labels]).correlation(numbers, one)[0]
    means = np.array([numbers[labels == i].mean() for i in labels])
    assert eta == pytest.approx(means.std() / numbers.std())
    assert np.isnan(Difficulty([1] * 30).correlation(numbers, one)[0])


def test_what_does_not_fit() -> None:
    model = by_hooks.wrapped("gpt2")
    with pytest.raises(InputError, match="by is 'logits'"):
        ll.depth_score(model, TEXTS, by="logits")
    with pytest.raises(InputError, match="have no labels"):
        ll.depth_score(model, ll.texts(TEXTS, label=[1, None, 2]))
    with pytest.raises(InputError, match="NaN or infinite"):
        ll.depth_score(model, ll.texts(TEXTS, label=[1.0, float("nan"), 2.0]))
    with pytest.raises(InputError, match="cuts of depth_score"):
        ll.depth_score(model, TEXTS, cuts=2)
    assert torch.is_grad_enabled()
