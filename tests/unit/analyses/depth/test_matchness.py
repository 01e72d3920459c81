"""Matchness: against plain hooks, of sublayers that write nothing, and of all left out."""

from __future__ import annotations

import json
from typing import Any

import numpy as np
import pytest
import torch

import layerlens as ll
from layerlens.analyses.depth.finercut_trials import Unit
from layerlens.analyses.depth.skip_sets import drawn, spread
from layerlens.errors import InputError

from .. import by_hooks, without

TEXTS = without.TEXTS


@pytest.mark.parametrize("family", without.FAMILIES)
@pytest.mark.parametrize("batch_size", [None, 1])
def test_each_set_equals_plain_hooks(family: str, batch_size: int | None) -> None:
    order = ["2 mlp", "0 attn", "1 mlp"]
    model = by_hooks.wrapped(family)
    found = ll.matchness(model, TEXTS, skip=order, verify=4, batch_size=batch_size)
    assert found.checks.ok
    assert len(found.checks) == 2
    assert found.data.attrs["complete"] == 1
    assert found.data.skipped.values.tolist() == [0, 1, 2, 3]
    hf = by_hooks.plain(family)
    clean = [without.run(hf, ids)[1] for ids in TEXTS]
    for count in range(4):
        parts = [(int(name.split()[0]), name.split()[1]) for name in order[:count]]
        other = [without.run(hf, ids, parts=parts)[1] for ids in TEXTS]
        pairs = list(zip(clean, other, TEXTS, strict=True))
        same = torch.cat([(a.argmax(-1) == b.argmax(-1))[1:] for a, b, _ in pairs])
        change = [(without.loss(b, t) - without.loss(a, t))[1:] for a, b, t in pairs]
        here = found.data.isel(skipped=count)
        assert float(here.matchness) == pytest.approx(float(same.double().mean()))
        assert float(here.loss_change) == pytest.approx(float(torch.cat(change).mean()), abs=1e-5)
    assert float(found.data.matchness[1:].min()) < 1


def test_random_sets_are_measured_like_any_other() -> None:
    model = by_hooks.wrapped("llama")
    data = ll.matchness(model, TEXTS, counts=2, keep_ends=False, draws=3, seed=4).data
    every = [Unit(layer, part) for layer in range(3) for part in ("attn", "mlp")]
    names = [[f"{u.layer} {u.part}" for u in units] for units in drawn(every, 2, 3, 4)]
    found = [float(ll.matchness(model, TEXTS, skip=s, counts=2).data.matchness[0]) for s in names]
    assert float(data.matchness_random[0]) == pytest.approx(np.mean(found))
    assert float(data.matchness_random_best[0]) == max(found)


def test_sublayers_that_write_nothing_are_not_missed() -> None:
    model = by_hooks.wrapped("llama")
    without.silence(model.hf, 1)
    data = ll.matchness(model, TEXTS).data
    assert (data.matchness == 1).all()
    np.testing.assert_allclose(data.loss_change, 0, atol=1e-6)
    assert {name for names in json.loads(data.attrs["sets"]) for name in names} <= {
        "1 attn",
        "1 mlp",
    }


def test_sets_are_spread_over_depth_and_ends_are_kept() -> None:
    pool = [Unit(layer, part) for layer in range(1, 5) for part in ("attn", "mlp")]
    assert [unit.part for unit in spread(pool, 4)] == ["mlp"] * 4
    assert [unit.layer for unit in spread(pool, 2)] == [2, 4]
    assert spread(pool, 8) == pool
    assert spread(pool, 0) == []
    assert drawn(pool, 0, 3, 0) == drawn(pool, 8, 3, 0) == []
    assert all(len(set(units)) == 5 for units in drawn(pool, 5, 20, 0))
    data = ll.matchness(by_hooks.wrapped("gpt2"), TEXTS, counts=[0, 2]).data
    assert json.loads(data.attrs["sets"]) == [[], ["1 attn", "1 mlp"]]
    assert (data.matchness == data.matchness_random).all()  # there is one set of each size


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"skip": ["7 mlp"]}, "'0 attn'"),
        ({"skip": ["1 mlp", "1 mlp"]}, "each once"),
        ({"skip": []}, "expected sublayers"),
        ({"counts": 3}, "at most 2"),
        ({"counts": -1}, "counts"),
        ({"draws": 0}, "draws"),
        ({"skip": ["1 mlp"], "keep_ends": False}, "has an effect only"),
        ({"skip_first": 99}, "counts"),
    ],
)
def test_what_does_not_fit_is_refused(options: dict[str, Any], words: str) -> None:
    with pytest.raises(InputError, match=words):
        ll.matchness(by_hooks.wrapped("gpt2"), TEXTS, **options)


def test_a_model_of_two_blocks_has_nothing_between_its_ends() -> None:
    with pytest.raises(InputError, match="keep_ends=False"):
        ll.matchness(ll.load("toy:induction"), "cat dog owl cat")
