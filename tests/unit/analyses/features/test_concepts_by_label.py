"""Concepts by label: areas against scikit-learn, planted labels, and an untrained model."""

from __future__ import annotations

import numpy as np
import pytest
from scipy.stats import rankdata
from sklearn.metrics import roc_auc_score

import layerlens as ll
from layerlens.analyses.contract.split import split_texts
from layerlens.analyses.features.concepts.by_label import ByLabel, areas
from layerlens.errors import InputError
from layerlens.result import Result

TEXTS = 60


def labels_of(names: str = "abc") -> list[str]:
    return [names[i % len(names)] for i in range(TEXTS)]


def by_label(labels: list[str], groups: list[str] | None = None) -> ByLabel:
    split = split_texts(groups or [None] * len(labels), seed=0, test=0.5)
    return ByLabel(labels, groups, split, seed=0)


def test_areas_are_those_of_scikit_learn() -> None:
    drawn = np.random.default_rng(0)
    amounts = drawn.integers(0, 6, (25, 4)).astype(float)  # with ties
    place = np.arange(25) % 3
    expected = [[roc_auc_score(place == label, one) for one in amounts.T] for label in range(3)]
    np.testing.assert_allclose(areas(rankdata(amounts, axis=0), place, 3), expected)


def test_a_concept_of_one_label_is_chosen_for_it_and_shuffled_labels_do_not_reach_it() -> None:
    labels = labels_of()
    found = by_label(labels)
    amounts = np.random.default_rng(1).random((TEXTS, 5))
    amounts[:, 3] += 3 * (found.place == 1)
    told = found.told(range(TEXTS), amounts)
    assert told["told_concept"][1] == 4 and told["told_auc"][1] == 1
    assert told["label_auc"].shape == (3, 5) and told["label_auc"][1, 3] == 1
    assert 0.5 < told["told_auc_shuffled"][1] < 0.85  # once in 20 draws, of 30 texts
    assert told["told_auc"][[0, 2]].max() < 0.85


def test_importance_that_differs_is_told_from_importance_that_does_not() -> None:
    found = by_label(labels_of())
    values = np.random.default_rng(2).random((TEXTS, 2))
    values[:, 0] += 2 * (found.place == 0)
    said = found.importance(range(TEXTS), values)
    means = [values[found.place == label].mean(0) for label in range(3)]
    np.testing.assert_allclose(said["label_importance"], means)
    np.testing.assert_allclose(said["label_spread"], np.std(means, axis=0))
    beyond = said["label_spread"] / said["label_spread_shuffled"]
    assert beyond[0] > 2 > 1.2 > beyond[1]


def test_groups_whose_texts_share_a_label_are_dealt_out_whole() -> None:
    labels = [name for name in "abab" for _ in range(TEXTS // 4)]
    groups = [f"{name}{i // (TEXTS // 4)}" for i, name in enumerate(labels)]
    values = np.repeat([[1.0], [0.0], [1.0], [0.0]], TEXTS // 4, axis=0)
    apart = by_label(labels).importance(range(TEXTS), values)
    whole = by_label(labels, groups).importance(range(TEXTS), values)
    # Four groups have few ways to be dealt out: the labels' own is one of them.
    assert whole["label_spread_shuffled"][0] == whole["label_spread"][0] == 0.5
    assert apart["label_spread_shuffled"][0] < 0.2


@pytest.fixture(scope="module")
def both() -> Result:
    """Texts of the toy that go on with one word or with another."""
    words = ("bee", "ant", "emu", "hen") * 3
    starts = [(f"cat {one} dog {other}", name) for name in ("owl", "fox")
              for one, other in zip(words, words[1:] + words[:1], strict=True)]  # fmt: skip
    texts = [f"{start} crab {name} {start.split()[1]} crab" for start, name in starts]
    labels = [name for _, name in starts]
    model = ll.load("toy:induction")
    options = {"r": 4, "designs": 8, "explain": 2, "starts": 0, "untrained": True}
    return ll.concepts(model, ll.texts(texts, label=labels), layers=1, **options)


def test_the_words_that_texts_go_on_with_tell_them_apart(both: Result) -> None:
    data = both.data
    assert both.checks.ok and data.label.values.tolist() == ["owl", "fox"]
    # Each label has its own concept: what the model is about to write.
    assert set(data.told_concept.values.tolist()) != {1}
    assert (data.told_auc.values > data.told_auc_shuffled.values).all()
    # As many texts of each label: the mean of both is that of all.
    np.testing.assert_allclose(data.label_importance.mean("label"), data.importance, rtol=1e-12)
    assert data.attrs["train_answered"] == 4


def test_an_untrained_model_has_factors_of_its_own(both: Result) -> None:
    data = both.data
    assert float(data.top_ratio) == float(data.top_deletion) / float(data.top_deletion_random)
    assert np.isfinite([float(data.explained_untrained), float(data.top_ratio_untrained)]).all()
    assert float(data.explained_untrained) != float(data.explained)


FEW = ["cat dog owl", "dog owl cat", "owl cat dog", "fox dog cat"]


def test_labels_of_too_few_texts_are_refused() -> None:
    with pytest.raises(InputError, match="text with the label 'b' has a token that counts"):
        ll.concepts(ll.load("toy:induction"), ll.texts(FEW, label=list("aaab")), r=2, test=0.5)


def test_one_label_is_none() -> None:
    options = {"r": 2, "designs": 2, "explain": 1, "test": 0.5, "starts": 0}
    found = ll.concepts(ll.load("toy:induction"), ll.texts(FEW, label=["a"] * 4), **options)
    assert "label_auc" not in found.data
    assert "All texts have the label 'a'" in found.data.attrs["notes"]
