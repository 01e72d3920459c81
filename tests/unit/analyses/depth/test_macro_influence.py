"""Macro Influence: against plain hooks, for layers that write nothing, and as Block Influence."""

from __future__ import annotations

import json
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

import layerlens as ll
from layerlens.analyses.contract.listeners import Silent
from layerlens.errors import Cancelled, InputError, ModelError
from layerlens.model.lensmodel import LensModel
from layerlens.model.tiny import tiny_model

from .. import by_hooks, without

TEXTS = without.TEXTS


def turns(family: str, blocks: list[int], before: list[int], skip: int = 1) -> Tensor:
    """One minus the cosine of the last states without ``blocks`` and without ``before`` only."""
    hf = by_hooks.plain(family)
    found = []
    for ids in TEXTS:
        clean, _ = without.run(hf, ids, before)
        other, _ = without.run(hf, ids, [*before, *blocks])
        a, b = clean[-1][skip:].double(), other[-1][skip:].double()
        found.append(1 - torch.cosine_similarity(a, b, dim=-1))
    return torch.cat(found)


@pytest.mark.parametrize("family", without.FAMILIES)
@pytest.mark.parametrize("batch_size", [1, None])
def test_each_block_equals_plain_hooks(family: str, batch_size: int | None) -> None:
    model, hf = by_hooks.wrapped(family), by_hooks.plain(family)
    result = ll.macro_influence(model, TEXTS, batch_size=batch_size, verify=3)
    data = result.data
    assert result.checks.ok and data.attrs["complete"] == 1
    for layer in range(3):
        wanted = float(turns(family, [layer], []).mean())
        assert float(data.macro_influence[layer]) == pytest.approx(wanted, abs=1e-5)
        clean = [without.run(hf, ids)[1] for ids in TEXTS]
        other = [without.run(hf, ids, [layer])[1] for ids in TEXTS]
        kls = torch.cat([without.kl(a, b)[1:] for a, b in zip(clean, other, strict=True)])
        assert float(data.kl[layer]) == pytest.approx(float(kls.mean()), abs=1e-5)
        losses = [
            torch.cat([without.loss(out, ids)[1:] for out, ids in zip(outs, TEXTS, strict=True)])
            for outs in (clean, other)
        ]
        change = float((losses[1] - losses[0]).mean())
        assert float(data.loss_change[layer]) == pytest.approx(change, abs=1e-5)
        assert float(data.loss) == pytest.approx(float(losses[0].mean()), abs=1e-5)
    low, high = data.macro_influence_low.values, data.macro_influence_high.values
    assert (low <= data.macro_influence.values).all() and (high >= low).all()
    order = np.argsort(data.macro_influence.values).tolist()
    assert json.loads(data.attrs["order"]) == order


@pytest.mark.parametrize("family", without.FAMILIES)
def test_rounds_measure_what_is_left(family: str) -> None:
    data = ll.macro_influence(by_hooks.wrapped(family), TEXTS, rounds=2).data
    assert data.macro_influence.dims == ("layer", "round")
    gone = int(data.removed[0])
    assert gone == int(np.argmin(data.macro_influence.values[:, 0]))
    for layer in {0, 1, 2} - {gone}:
        wanted = float(turns(family, [layer], [gone]).mean())
        assert float(data.macro_influence[layer, 1]) == pytest.approx(wanted, abs=1e-5)
    assert np.isnan(data.macro_influence[gone, 1])
    hf = by_hooks.plain(family)
    both = data.removed.values.tolist()
    for count in (1, 2):
        losses = [without.loss(without.run(hf, ids, both[:count])[1], ids)[1:] for ids in TEXTS]
        wanted = float(torch.cat(losses).mean())
        assert float(data.loss_removed[count - 1]) == pytest.approx(wanted, abs=1e-5)
    assert json.loads(data.attrs["order"]) == both and len(set(both)) == 2


def test_a_layer_that_writes_nothing_goes_first() -> None:
    model = by_hooks.wrapped("llama")
    without.silence(model.hf, 1)
    data = ll.macro_influence(model, TEXTS, rounds=2).data
    assert data.removed.values[0] == 1
    assert abs(float(data.macro_influence[1, 0])) < 1e-12
    assert float(data.kl[1, 0]) == 0 and float(data.loss_change[1, 0]) == 0


@pytest.mark.parametrize("family", without.FAMILIES)
def test_the_last_block_has_its_block_influence(family: str) -> None:
    model = by_hooks.wrapped(family)
    macro = ll.macro_influence(model, TEXTS, output=False).data.macro_influence
    block = ll.layer_metrics(model, TEXTS, ["block_influence"]).data.block_influence
    assert float(macro[-1]) == pytest.approx(float(block[-1]), abs=1e-6)
    assert ((macro >= 0) & (macro <= 2)).all()


def test_a_model_without_a_head_has_no_loss() -> None:
    hf = tiny_model("gpt2", seed=1).transformer
    model = LensModel.wrap(hf, None, prove=False)
    data = ll.macro_influence(model, TEXTS, output=False).data
    assert set(data.data_vars) == {
        "macro_influence",
        "macro_influence_low",
        "macro_influence_high",
    }
    with pytest.raises(ModelError, match="head"):
        ll.macro_influence(model, TEXTS)


def test_a_stop_keeps_what_was_done() -> None:
    class Stop(Silent):
        parts = 0

        def on_emit(self, where: Any, arrays: Any) -> None:
            self.parts += "layer" in where

        def cancelled(self) -> bool:
            return self.parts >= 2

    model = by_hooks.wrapped("llama")
    with pytest.raises(Cancelled) as caught:
        ll.macro_influence.run(model, TEXTS, {}, Stop())
    partial = caught.value.partial.data.macro_influence.values  # type: ignore[union-attr]
    assert np.isfinite(partial[:2]).all() and np.isnan(partial[2])
    assert not any(module._forward_hooks for module in model.hf.modules())


@pytest.mark.parametrize(
    ("options", "words"),
    [({"rounds": 3}, "rounds"), ({"rounds": 0}, "rounds"), ({"skip_first": 7}, "counts")],
)
def test_what_does_not_fit_is_refused(options: dict[str, Any], words: str) -> None:
    with pytest.raises(InputError, match=words):
        ll.macro_influence(by_hooks.wrapped("gpt2"), TEXTS, **options)


@pytest.mark.parametrize("by", ["kl", "loss_change"])
def test_blocks_go_by_another_measure(by: str) -> None:
    data = ll.macro_influence(by_hooks.wrapped("gpt2"), TEXTS, rounds=2, by=by).data
    for number in range(2):
        assert int(data.removed[number]) == int(np.nanargmin(data[by].values[:, number]))


def test_blocks_go_by_a_score_of_one_s_own() -> None:
    def score(logits: torch.Tensor) -> torch.Tensor:
        return logits[:, 7]

    data = ll.macro_influence(by_hooks.wrapped("llama"), TEXTS, rounds=2, by=score).data
    hf = by_hooks.plain("llama")
    gone: list[int] = []
    for number in range(2):
        clean = torch.cat([without.run(hf, ids, gone)[1][1:, 7] for ids in TEXTS])
        drops = {}
        for layer in {0, 1, 2} - set(gone):
            other = [without.run(hf, ids, [*gone, layer])[1][1:, 7] for ids in TEXTS]
            drops[layer] = float((clean - torch.cat(other)).mean())
            found = float(data.score_drop[layer, number])
            assert found == pytest.approx(drops[layer], abs=1e-4)
        gone.append(min(drops, key=lambda layer: drops[layer]))
    assert data.removed.values.tolist() == gone


def test_of_equal_blocks_the_first_goes_and_protected_ones_stay() -> None:
    def same(logits: torch.Tensor) -> torch.Tensor:
        return torch.ones(len(logits))

    model = by_hooks.wrapped("llama")
    plain = ll.macro_influence(model, TEXTS, rounds=2, by=same).data
    assert plain.removed.values.tolist() == [0, 1]
    kept = ll.macro_influence(model, TEXTS, rounds=1 + 1, by=same, protect=[0]).data
    assert kept.removed.values.tolist() == [1, 2]


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"by": "macro"}, "did you mean 'macro_influence'"),
        ({"by": "kl", "output": False}, "by of macro_influence has an effect only where output"),
        ({"protect": [0]}, "protect of macro_influence has an effect only with rounds above 1"),
        ({"rounds": 2, "protect": [0, -1]}, "rounds is 2; expected 1 to 1"),
        ({"by": lambda logits: logits}, "one number a row"),
    ],
)
def test_what_decides_has_to_be_there(options: dict[str, Any], words: str) -> None:
    with pytest.raises(InputError, match=words):
        ll.macro_influence(by_hooks.wrapped("llama"), TEXTS, **options)
