"""Aligned pairs: plain transformers, identical and shuffled texts, a constant per language."""

from __future__ import annotations

import numpy as np
import pytest
import torch

import layerlens as ll
from layerlens.analyses.probing.aligned_pairs import shuffled_partners
from layerlens.analyses.probing.retrieval import partners
from layerlens.errors import InputError
from layerlens.model.lensmodel import LensModel
from layerlens.model.tiny import tiny_model


@pytest.fixture(scope="module")
def model() -> LensModel:
    return ll.load(tiny_model("llama"))


def texts(number: int, seed: int) -> list[list[int]]:
    random = np.random.default_rng(seed)
    return [random.integers(3, 95, 3 + i % 4).tolist() for i in range(number)]


def pooled(model: LensModel, ids: list[int], place: int, pool: str) -> np.ndarray:
    with torch.no_grad():
        told = model.hf(torch.tensor([ids]), output_hidden_states=True).hidden_states[place][0]
    state: np.ndarray = (told.mean(0) if pool == "mean" else told[-1]).double().numpy()
    return state


@pytest.mark.parametrize(("pool", "centre"), [("mean", True), ("last", False)])
def test_it_is_what_plain_transformers_give(model: LensModel, pool: str, centre: bool) -> None:
    one, other = texts(9, 0), texts(9, 1)
    for own_ids, other_ids in zip(one, other, strict=True):
        other_ids[0] = own_ids[0]  # something in common
    found = ll.aligned_pairs(model, one, other, pool=pool, centre=centre, untrained=False)
    for place, point in enumerate(["embed", "0_post", "1_post"]):  # the last has a norm behind it
        a, b = (np.stack([pooled(model, ids, place, pool) for ids in side])
                for side in (one, other))  # fmt: skip
        if centre:
            a, b = a - a.mean(0), b - b.mean(0)
        cosines = np.array([[x @ y / np.sqrt(x @ x * (y @ y)) for y in b] for x in a])
        here = found.data.sel(of="pairs", point=point)
        own = cosines.diagonal()
        assert float(here.found_translation) == pytest.approx(
            (cosines.argmax(1) == range(9)).mean()
        )
        assert float(here.found_text) == pytest.approx((cosines.argmax(0) == range(9)).mean())
        gap = own.mean() - cosines[~np.eye(9, dtype=bool)].mean()
        assert float(here.cosine_gap) == pytest.approx(gap, abs=1e-5)
    assert found.checks.ok


def test_identical_texts_find_each_other_and_shuffled_ones_do_not(model: LensModel) -> None:
    same = texts(40, 2)
    found = ll.aligned_pairs(model, same, same)
    for name in ("found_translation", "found_text"):
        assert (found.data[name].sel(of="pairs") == 1).all()
        assert (found.data[name].sel(of="shuffled pairs") == 0).all()  # another one is identical
        assert (found.data[name].sel(of="untrained") == 1).all()
        assert (found.data[name].sel(of="chance") == 1 / 40).all()
    assert (found.data.cosine_gap.sel(of="pairs") > 0.5).all()
    assert found.checks.ok


def test_states_that_have_nothing_in_common_are_at_chance() -> None:
    random = np.random.default_rng(3)
    found = partners(random.normal(size=(600, 20)), random.normal(size=(600, 20)), centre=True)
    for right in (found.there, found.back):
        assert right.sum() < 8  # one is expected
    assert abs(found.gap.mean()) < 0.05


def test_a_constant_of_a_language_counts_only_where_it_is_not_subtracted() -> None:
    random = np.random.default_rng(4)
    one = random.normal(size=(50, 8))
    other = one + 0.3 * random.normal(size=(50, 8))
    there, apart = 20 * random.normal(size=8), 20 * random.normal(size=8)
    plain, moved = (partners(a, b, centre=True) for a, b in
                    ((one, other), (one + there, other + apart)))  # fmt: skip
    for before, after in zip(plain, moved, strict=True):
        np.testing.assert_allclose(before, after, atol=1e-9)
    left = partners(one + there, other + apart, centre=False)
    assert left.there.mean() < 0.5 < plain.there.mean()


def test_states_that_are_all_alike_share_the_credit() -> None:
    same = np.ones((5, 3))
    for centre in (True, False):
        found = partners(same, same, centre=centre)
        np.testing.assert_allclose(found.there, 0.2)
        np.testing.assert_allclose(found.gap, 0, atol=1e-12)


def test_nobody_keeps_its_partner_among_shuffled_ones() -> None:
    for count in (2, 3, 17):
        order = shuffled_partners(count, 0)
        assert sorted(order.tolist()) == list(range(count))
        assert not (order == np.arange(count)).any()


def test_what_does_not_fit_is_refused(model: LensModel) -> None:
    with pytest.raises(InputError, match="3 texts and 2 translations"):
        ll.aligned_pairs(model, texts(3, 0), texts(2, 0))
    with pytest.raises(InputError, match="one pair"):
        ll.aligned_pairs(model, [3, 4], [3, 5])
    with pytest.raises(InputError, match="did you mean 'mean'"):
        ll.aligned_pairs(model, texts(3, 0), texts(3, 0), pool="meen")
