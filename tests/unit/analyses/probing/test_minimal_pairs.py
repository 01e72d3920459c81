"""Minimal pairs: plain transformers, uniform answers, what a toy was trained to do."""

from __future__ import annotations

import numpy as np
import pytest
import torch

import layerlens as ll
from layerlens.analyses.probing.numbers import wilson
from layerlens.analyses.probing.surprisals import reordered, shared_start
from layerlens.corpus.labelled import agreement_pairs
from layerlens.errors import InputError
from layerlens.model.lensmodel import LensModel
from layerlens.model.tiny import tiny_model

GOOD = [[5, 9, 14, 3, 7, 5], [4, 8, 6, 2], [11, 12, 13, 14, 15, 16, 17]]
BAD = [[5, 9, 14, 4, 7, 5], [4, 8, 6, 3], [21, 12, 13, 14]]
"""The last pair differs from the first token on, and in length."""


@pytest.fixture(scope="module")
def model() -> LensModel:
    return ll.load(tiny_model("llama"))


def by_hidden_states(model: LensModel, ids: list[int]) -> list[float]:
    """Surprisal of all tokens by each state between blocks, and by the model itself."""
    given = torch.tensor([ids])
    with torch.no_grad():
        told = model.hf(given, output_hidden_states=True)
        states = told.hidden_states[: model.n_layers]
        read = [model.hf.lm_head(model.hf.model.norm(state)) for state in states]
    return [
        float(torch.nn.functional.cross_entropy(logits[0, :-1], given[0, 1:], reduction="sum"))
        for logits in [*read, told.logits]
    ]


def test_it_is_what_plain_transformers_give(model: LensModel) -> None:
    found = ll.minimal_pairs(model, GOOD, BAD, reorder=False)
    own = np.array([[by_hidden_states(model, ids) for ids in side] for side in (GOOD, BAD)])
    wanted = own[1] - own[0]
    assert list(found.data.point.values) == ["embed", "0_post", "1_post", "final"]
    np.testing.assert_allclose(found.data.difference, wanted, atol=1e-4)
    shares = found.data.share.sel(of="pairs")
    np.testing.assert_array_equal(shares, (wanted > 0).mean(0))
    np.testing.assert_allclose(found.data.margin.sel(of="pairs"), wanted.mean(0), atol=1e-4)
    low, high = wilson(float((wanted[:, -1] > 0).sum()), len(GOOD))
    assert float(found.data.share_low.sel(of="pairs", point="final")) == pytest.approx(low)
    assert float(found.data.share_high.sel(of="pairs", point="final")) == pytest.approx(high)
    assert found.checks.ok
    assert "first token" in str(found.data.attrs["notes"])


def test_the_other_way_round_everything_is_turned(model: LensModel) -> None:
    there, back = (ll.minimal_pairs(model, *sides, reorder=False).data
                   for sides in ((GOOD, BAD), (BAD, GOOD)))  # fmt: skip
    np.testing.assert_allclose(back.difference, -there.difference, atol=1e-6)
    np.testing.assert_allclose(
        back.share.sel(of="pairs"), 1 - there.share.sel(of="pairs"), atol=1e-12
    )


def test_a_model_that_knows_nothing_ties_and_counts_tokens() -> None:
    blind = ll.load(tiny_model("gpt2"))
    with torch.no_grad():
        blind.hf.transformer.ln_f.weight.zero_()
        blind.hf.transformer.ln_f.bias.zero_()
    found = ll.minimal_pairs(blind, GOOD, BAD)
    fewer = 3 * np.log(blind.d_vocab)  # the last bad text is three tokens shorter
    for point in found.data.point.values:
        np.testing.assert_allclose(found.data.difference.sel(point=point)[:2], 0, atol=1e-5)
        np.testing.assert_allclose(found.data.difference.sel(point=point)[2], -fewer, atol=1e-4)
    equal = ll.minimal_pairs(blind, GOOD[:2], BAD[:2]).data
    np.testing.assert_array_equal(equal.share, 0.5)
    assert found.checks.ok


def test_a_toy_that_continues_repetitions_prefers_them_and_needs_their_order() -> None:
    toy = ll.load("toy:induction")
    random = np.random.default_rng(0)
    good, bad = [], []
    for _ in range(40):
        words = random.choice(np.arange(5, 60), 6, replace=False).tolist()
        good.append([*words, *words[:3]])
        bad.append([*words, *words[:2], words[4]])
    found = ll.minimal_pairs(toy, good, bad, groups=[i // 2 for i in range(40)]).data
    final = found.share.sel(point="final")
    assert float(final.sel(of="pairs")) == 1
    for blind in ("random order", "swapped at random"):
        assert abs(float(final.sel(of=blind)) - 0.5) < 0.25
    embedded = found.sel(of="pairs", point="embed")  # sees no earlier token
    assert float(embedded.share_low) < 0.5 < float(embedded.share_high)


def test_groups_widen_the_interval(model: LensModel) -> None:
    good, bad = GOOD[:2] * 6, BAD[:2] * 6
    alone = ll.minimal_pairs(model, good, bad, reorder=False).data
    kept = ll.minimal_pairs(model, good, bad, reorder=False, groups=[0, 1] * 6).data
    texts = ll.texts(good, group=[0, 1] * 6)
    same = ll.minimal_pairs(model, texts, ll.texts(bad), reorder=False).data
    width = [d.margin_high - d.margin_low for d in (alone, kept, same)]
    assert (width[1].sel(of="pairs") > width[0].sel(of="pairs")).all()
    np.testing.assert_allclose(width[1], width[2], atol=1e-6)


def test_what_does_not_pair_is_refused(model: LensModel) -> None:
    for good, bad, words in (
        (GOOD, BAD[:2], "3 good texts and 2 bad"),
        (GOOD[:1], GOOD[:1], "Pair 0 holds the same tokens twice"),
        ([[4]], [[5]], "one token"),
    ):
        with pytest.raises(InputError, match=words):
            ll.minimal_pairs(model, good, bad)
    with pytest.raises(InputError, match="2 groups and 3 pairs"):
        ll.minimal_pairs(model, GOOD, BAD, groups=[1, 2])
    with pytest.raises(InputError, match="of their own"):
        ll.minimal_pairs(model, ll.texts(GOOD, group=[1, 2, 3]), BAD, groups=[1, 2, 3])


def test_a_random_order_keeps_the_tokens_and_moves_both_alike() -> None:
    assert (shared_start([1, 2, 3], [1, 2, 3, 4]), shared_start([1], [2])) == (3, 0)
    one, other = [1, 3, 4, 5, 6, 7, 2], [1, 3, 4, 5, 9, 7, 2]
    a, b = reordered(one, other, frozenset([2]), (0, 0))
    assert sorted(a) == sorted(one)
    assert sorted(b) == sorted(other)
    assert (a[0], a[-1], b[0], b[-1]) == (1, 2, 1, 2)
    assert [(x, y) for x, y in zip(a, b, strict=True) if x != y] == [(6, 9)]
    assert list(a) != one


def test_pairs_at_hand_differ_in_a_verb_that_is_as_often_right() -> None:
    good, bad = (list(side.items()) for side in agreement_pairs())
    assert len(good) == len(bad) == 128
    for one, other in zip(good, bad, strict=True):
        words = [a for a, b in zip(one.text.split(), other.text.split(), strict=True) if a != b]
        assert words in (["is"], ["are"])
        assert (one.label, one.group) == (other.label, other.group)
    assert sum(" is " in item.text for item in good) == 64
