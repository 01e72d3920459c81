"""Splits between channels and rank: each one's loss, of a known layer, and all together."""

from __future__ import annotations

import numpy as np
import pytest
import torch

import layerlens as ll
from layerlens.analyses.contract.split import split_texts
from layerlens.errors import InputError
from layerlens.result import Result

from .. import by_hooks, without

TEXTS = [*without.TEXTS, by_hooks.IDS]
SPLITS = [0.0, 0.5, 1.0]


@pytest.fixture(scope="module")
def found() -> Result:
    return ll.sparse_split(by_hooks.wrapped("gpt2"), TEXTS, splits=SPLITS, sparsity=0.6)


def test_each_number_is_that_of_sparse_layers(found: Result) -> None:
    assert found.checks.ok and found.data.attrs["complete"] == 1
    searched = [TEXTS[i] for i in split_texts([None] * len(TEXTS), 0, 0.3).train]
    model = by_hooks.wrapped("gpt2")
    for column, split in enumerate(SPLITS):
        alone = ll.sparse_layers(model, searched, split=split, sparsity=0.6).data.kl_sparse
        np.testing.assert_allclose(found.data.kl[:, column], alone, atol=1e-6)
    best = np.array(SPLITS)[found.data.kl.values.argmin(1)]
    np.testing.assert_array_equal(found.data.best_split, best)


def test_one_layer_together_is_that_layer_alone() -> None:
    texts = [*TEXTS, [3, 9, 27, 81, 60, 11], [2, 4, 8, 16, 32]]
    data = ll.sparse_split(by_hooks.wrapped("llama"), texts, splits=SPLITS, layers=[1]).data
    least = float(data.kl.min())
    assert float(data.searched[0]) == pytest.approx(least)
    assert float(data.searched[1]) == pytest.approx(least)
    assert float(data.held_out[0]) == pytest.approx(float(data.held_out[1]))
    assert float(data.held_out_low[0]) <= float(data.held_out[0]) <= float(data.held_out_high[0])


def test_a_layer_of_low_rank_buys_rank() -> None:
    model = by_hooks.wrapped("gpt2")
    with torch.no_grad():
        for parameter in by_hooks.blocks(model.hf)[1].parameters():
            if parameter.dim() == 2:
                parameter.copy_(3 * parameter[:, :1] @ parameter[:1])
    data = ll.sparse_split(model, TEXTS, splits=SPLITS, layers=[1]).data
    assert float(data.best_split[0]) in (0.0, 0.5)
    assert float(data.kl[0, 0]) < 1e-6 < float(data.kl[0, 2])


def test_what_does_not_fit() -> None:
    model = by_hooks.wrapped("gpt2")
    for wrong in ({"splits": []}, {"splits": [0.5, 0.5]}, {"splits": [2.0]}, {"sparsity": 1.0}):
        with pytest.raises(InputError):
            ll.sparse_split(model, TEXTS, **wrong)
    alone = ll.sparse_split(model, TEXTS[0], splits=[0.5])
    assert np.isnan(alone.data.held_out).all() and "hold out" in alone.data.attrs["notes"]
