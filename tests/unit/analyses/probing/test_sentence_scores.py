"""Sentence scores: SciPy, gold made of one layer, the metrics' own analysis, numbers by hand."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from scipy import stats

import layerlens as ll
from layerlens.analyses.probing.rank_correlation import against_chance, between, spearman
from layerlens.errors import InputError
from layerlens.model.lensmodel import LensModel
from layerlens.model.tiny import tiny_model

ONE = "matrix_entropy"


@pytest.fixture(scope="module")
def model() -> LensModel:
    return ll.load(tiny_model("llama"))


def texts(number: int, seed: int) -> list[list[int]]:
    random = np.random.default_rng(seed)
    return [random.integers(3, 95, 3 + i % 4).tolist() for i in range(number)]


def cosine(model: LensModel, one: list[int], other: list[int], place: int) -> float:
    with torch.no_grad():
        a, b = (model.hf(torch.tensor([ids]), output_hidden_states=True).hidden_states[place][0]
                .mean(0) for ids in (one, other))  # fmt: skip
    return float(torch.nn.functional.cosine_similarity(a, b, 0))


def test_gold_that_is_the_cosine_of_a_layer_is_found_there(model: LensModel) -> None:
    sides = texts(25, 0), texts(25, 1)
    for number, (one, other) in enumerate(zip(*sides, strict=True)):
        other[: number % 3] = one[: number % 3]
    gold = [cosine(model, *pair, place=1) for pair in zip(*sides, strict=True)]
    found = ll.sentence_scores(model, sides[0], others=sides[1], scores=gold, metrics=[ONE])
    assert found.checks.ok
    score = found.data.score
    assert float(score.sel(of="task", point="0_post")) == pytest.approx(1)
    first = [cosine(model, *pair, place=0) for pair in zip(*sides, strict=True)]
    assert float(score.sel(of="task", point="embed")) == pytest.approx(
        stats.spearmanr(first, gold).statistic
    )
    low, high = (found.data[f"score_{end}"] for end in ("low", "high"))
    assert (low.sel(of="shuffled") < 0).all() and (high.sel(of="shuffled") > 0).all()
    assert (score.sel(of="no correlation") == 0).all()


def test_labels_are_probed_and_metrics_are_their_own(model: LensModel) -> None:
    given = [[5 + 40 * (i % 2), *ids] for i, ids in enumerate(texts(30, 2))]
    labels = [ids[0] for ids in given]
    found = ll.sentence_scores(model, given, labels, metrics=[ONE, "dataset_entropy"], folds=3)
    data = found.data
    assert found.checks.ok and data.passes == 2
    assert (data.score.sel(of="task") > 0.8).all()
    assert (data.score.sel(of="majority") == 0.5).all()
    assert (data.score_low.sel(of="shuffled") < 0.55).all()
    by_itself = ll.layer_metrics(model, given, [ONE, "dataset_entropy"]).data
    for name in (ONE, "dataset_entropy"):
        np.testing.assert_allclose(data[name], by_itself[name])
        wanted = stats.spearmanr(by_itself[name], data.score.sel(of="task")).statistic
        np.testing.assert_allclose(data.correlation.sel(metric=name), wanted)
    probed = ll.probe(model, given, labels, position="mean", folds=3, untrained=False).data
    np.testing.assert_allclose(data.score.sel(of="task"), probed.accuracy.sel(of="probe"))


def test_correlations_against_scipy_and_by_hand() -> None:
    random = np.random.default_rng(0)
    one, other = random.integers(0, 6, (2, 40)).astype(float)  # with ties
    assert float(spearman(one, other)) == pytest.approx(stats.spearmanr(one, other).statistic)
    assert np.isnan(spearman(np.ones(5), np.arange(5.0)))
    line = np.arange(6.0)
    found = against_chance(line, line, 0)
    # 2 of 720 orders are as far from 0; of 12 turns and mirror images 2
    assert found.value == pytest.approx(1) and found.p < 0.02
    assert found.p_shifted == pytest.approx(2 / 12)
    assert found.null_low < -0.5 and found.null_high > 0.5
    assert np.isnan(against_chance(line, np.zeros(6), 0)).all()
    value, low, high = between(one, one + random.normal(size=40))
    assert low < value < high


def test_curves_that_have_nothing_to_do_with_each_other_are_seldom_far_from_chance() -> None:
    random = np.random.default_rng(1)
    curves = random.normal(size=(60, 2, 12))
    assert 0 <= sum(against_chance(a, b, 0).p < 0.05 for a, b in curves) <= 8  # 3 are expected


def test_what_does_not_fit_is_refused(model: LensModel) -> None:
    given = texts(6, 0)
    with pytest.raises(InputError, match="need both others="):
        ll.sentence_scores(model, given, others=given)
    with pytest.raises(InputError, match="not both"):
        ll.sentence_scores(model, given, [0, 1] * 3, others=given, scores=[1, 2, 3, 4, 5, 6])
    with pytest.raises(InputError, match="6 finite numbers"):
        ll.sentence_scores(model, given, others=given, scores=[1, 1, 1, 1, 1, 1])
    with pytest.raises(InputError, match="cka has not one number"):
        ll.sentence_scores(model, given, [0, 1] * 3, metrics="cka")
    with pytest.raises(InputError, match="folds of sentence_scores has an effect only"):
        ll.sentence_scores(model, given, others=given, scores=range(6), folds=4)
