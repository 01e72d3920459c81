"""The search for sets of sublayers: what can be spared is found, and winners are checked."""

from __future__ import annotations

import json
from itertools import combinations

import numpy as np
import pytest

import layerlens as ll
from layerlens.analyses.depth.finercut_trials import units_of
from layerlens.analyses.depth.set_trials import proposals, random_sets
from layerlens.errors import InputError

from .. import by_hooks, without

TEXTS = [*without.TEXTS, by_hooks.IDS, [3, 9, 27, 81, 60, 11]]


def test_sublayers_that_write_nothing_are_found() -> None:
    model = by_hooks.wrapped("llama")
    without.silence(model.hf, 1)
    found = ll.skip_search(model, TEXTS, keep_ends=False, ratio=0.34, trials=15)
    assert found.checks.ok and found.data.attrs["complete"] == 1
    assert json.loads(found.data.attrs["sets"])["found"] == ["1 attn", "1 mlp"]
    data = found.data.sel(set="found")
    assert float(data.searched) == float(data.held_out) == 1
    assert float(data.held_out_loss_change) == pytest.approx(0, abs=1e-6)


def test_it_finds_the_best_of_all_sets() -> None:
    """With as many trials as there are sets, the best of them, by ``ll.matchness``."""
    model = by_hooks.wrapped("gpt2")
    found = ll.skip_search(model, TEXTS, keep_ends=False, ratio=0.34, trials=200, seed=1)
    assert found.checks.ok
    data, sets = found.data, json.loads(found.data.attrs["sets"])
    assert np.isfinite(data.tried).sum() == np.isfinite(data.tried_random).sum() == 15
    held = [int(i) for i in range(len(TEXTS)) if i not in _searched(found)]
    searched = [TEXTS[i] for i in _searched(found)]
    names = [f"{u.layer} {u.part}" for u in units_of(model)]
    scores = {
        pair: float(ll.matchness(model, searched, skip=list(pair), counts=2).data.matchness[0])
        for pair in combinations(names, 2)
    }
    assert float(data.searched[0]) == pytest.approx(max(scores.values()))
    assert scores[tuple(sets["found"])] == pytest.approx(max(scores.values()))
    again = ll.matchness(model, [TEXTS[i] for i in held], skip=sets["found"], counts=2).data
    assert float(data.held_out[0]) == pytest.approx(float(again.matchness[0]))
    assert float(data.held_out_loss_change[0]) == pytest.approx(float(again.loss_change[0]))


def _searched(found: ll.Result) -> list[int]:
    """The texts of the search: those that the same draw leaves on its side."""
    from layerlens.analyses.contract.split import split_texts

    return list(split_texts([None] * len(TEXTS), found.data.attrs["split_seed"], 0.3).train)


def test_proposals_are_new_and_of_one_size() -> None:
    best = (0, 1, 2)
    sets = list(proposals(8, 3, 40, 0, lambda: best))
    assert len(set(sets)) == len(sets) == 40
    assert all(set(best) & set(one) for one in sets[14:])  # at most two of three are swapped
    assert {len(one) for one in sets} == {3}
    assert list(proposals(8, 3, 40, 0, lambda: best)) == sets
    assert len(set(random_sets(8, 3, 200, 0))) == 56


def test_one_text_leaves_none_to_hold_out() -> None:
    found = ll.skip_search(by_hooks.wrapped("llama"), TEXTS[0], trials=2)
    assert np.isnan(found.data.held_out).all() and "hold out" in found.data.attrs["notes"]
    assert (found.data.best_random.notnull()).any()


def test_what_does_not_fit() -> None:
    model = by_hooks.wrapped("gpt2")
    for wrong in ({"ratio": 0}, {"ratio": 1.0}, {"trials": 0}, {"held_out": 1.0}):
        with pytest.raises(InputError):
            ll.skip_search(model, TEXTS, **wrong)
