"""Attention as a probe: pieces of words, plain patterns, one perfect head, even attention."""

from __future__ import annotations

import numpy as np
import pytest
import torch

import layerlens as ll
from layerlens.analyses.lenses.fitting.documents import rows_of
from layerlens.analyses.probing.arc_reader import arcs_of, fitted, told
from layerlens.analyses.probing.word_attention import between_words, recorded_words, words_of
from layerlens.errors import InputError
from layerlens.model.lensmodel import LensModel


@pytest.fixture(scope="module")
def toy() -> LensModel:
    return ll.load("toy:induction")


def test_attention_to_pieces_is_summed_and_from_pieces_averaged() -> None:
    pattern = torch.tensor([[[1.0, 0, 0], [0.5, 0.5, 0], [0.2, 0.2, 0.6]]])
    found = between_words(pattern, np.array([0, 1, 1]))
    np.testing.assert_allclose(found[0], [[1, 0], [0.35, 0.65]])
    np.testing.assert_allclose(between_words(pattern, np.array([-1, 0, 0]))[0], [[0.65]])


def test_words_are_what_stands_between_white_space(toy: LensModel) -> None:
    ids = toy.tokens("cat dog owl", add_bos=True).ids[0].tolist()
    words, word = words_of(toy, ids)
    assert words == ["cat", "dog", "owl"]
    assert word[-3:].tolist() == [0, 1, 2] and (word[:-3] == -1).all()


def test_maps_are_those_of_plain_transformers(toy: LensModel) -> None:
    given = ["cat dog owl fox", "bee ant"]
    found = recorded_words(toy, rows_of(toy, toy.tokens(given)))
    hf = toy.hf
    before = hf.config._attn_implementation
    hf.set_attn_implementation("eager")
    try:
        for text, own in zip(given, found, strict=True):
            with torch.no_grad():
                maps = hf(toy.tokens(text).ids, output_attentions=True).attentions
            of_words = torch.cat(maps)[..., 1:, 1:]  # the first token is none
            np.testing.assert_allclose(own, of_words.numpy(), atol=1e-5)
    finally:
        hf.set_attn_implementation(before)


def test_one_perfect_head_gets_the_weight_and_is_right() -> None:
    random = np.random.default_rng(0)
    maps, pairs = [], []
    for _ in range(60):
        size = int(random.integers(4, 8))
        own = random.dirichlet(np.ones(size), (5, size)).astype(np.float32)
        word, head = random.choice(size, 2, replace=False)
        own[3, word] = 0.1 / (size - 1)
        own[3, word, head] = 0.9
        maps.append(own)
        pairs.append([(int(word), int(head))])
    arcs = arcs_of(maps, pairs)
    weight, slope = fitted(arcs.features, arcs.real, arcs.wanted, 100.0)
    assert slope < 1e-3 and weight.argmax() == 3
    assert told(arcs.features[:, :, 3], arcs.real, arcs.wanted).mean() == 1
    assert told(arcs.features @ weight, arcs.real, arcs.wanted).mean() > 0.98
    same = np.ones_like(arcs.features[:, :, 0])
    np.testing.assert_allclose(told(same, arcs.real, arcs.wanted), 1 / arcs.real.sum(1))
    assert (arcs.real.sum(1) == [len(own[0]) - 1 for own in maps]).all()  # never itself


def test_arcs_that_follow_position_are_found_by_the_offset(toy: LensModel) -> None:
    random = np.random.default_rng(1)
    words = ["cat", "dog", "owl", "fox", "bee", "ant"]
    given = [" ".join(random.permutation(words)[: 4 + i % 2]) for i in range(15)]
    found = ll.attention_probe(toy, given, arcs=[[(3, 2), (2, 1)]] * 15, folds=3)
    assert found.checks.ok
    accuracy = found.data.accuracy
    assert float(accuracy.sel(reader="commonest offset")) == 1
    assert float(accuracy.sel(reader="chance")) < 0.35
    low = found.data.accuracy_low.sel(reader="all heads, other words")
    assert float(low) < 0.4
    best = float(accuracy.sel(reader="best head"))
    assert best <= float(found.data.head_accuracy.max()) + 1e-9


def test_what_does_not_fit_is_refused(toy: LensModel) -> None:
    given = ["cat dog owl"] * 4
    with pytest.raises(InputError, match="a list for each of the 4 texts"):
        ll.attention_probe(toy, given)
    with pytest.raises(InputError, match="Text 1 has 3 words, and an arc from 3 to 0"):
        ll.attention_probe(toy, given, arcs=[[(1, 0)], [(3, 0)], [], []])
