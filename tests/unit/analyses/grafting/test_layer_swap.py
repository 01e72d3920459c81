"""Layer swapping against plain modules whose blocks were exchanged, and against known answers."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

import layerlens as ll
from layerlens.analyses.grafting.layer_swap_run import SwapRun, derangement
from layerlens.errors import Cancelled, InputError
from layerlens.model.lensmodel import LensModel

from .. import by_hooks
from ..copies import copy_of

TEXTS = [[5, 17, 20, 3, 90, 41], [8, 3, 61, 7]]


def pair(family: str, noise: float = 0.3) -> tuple[LensModel, LensModel]:
    """A model and one with other weights."""
    model = by_hooks.wrapped(family)
    other = copy_of(model)
    torch.manual_seed(0)
    with torch.no_grad():
        for weight in other.hf.parameters():
            weight.add_(noise * weight.std(correction=0) * torch.randn_like(weight))
    other.name = "other"
    return model, other


def logits(hf: Any, ids: list[int]) -> Tensor:
    with torch.no_grad():
        found: Tensor = hf(torch.tensor([ids])).logits[0]
    return found.double()


def measured(clean: Any, swapped: Any) -> dict[str, float]:
    """Divergence and change of the loss over tokens but the first of each text, and the answer."""
    kls, losses, answers = [], [], []
    for ids in TEXTS:
        p, q = (logits(hf, ids).log_softmax(-1) for hf in (clean, swapped))
        kls.append((p.exp() * (p - q)).sum(-1)[1:])
        following = torch.tensor(ids[2:])
        losses.append((p - q)[1:-1].gather(1, following[:, None])[:, 0])
        answers.append(float(q[-1, p[-1].argmax()].exp()))
    return {
        "kl": float(torch.cat(kls).mean()),
        "loss_change": float(torch.cat(losses).mean()),
        "answer_probability": float(np.mean(answers)),
    }


def exchanged(model: LensModel, other: LensModel, blocks: dict[int, int], ends: str) -> Any:
    """A plain model with some of the other's blocks (place to number), between either's ends."""
    source, shell = copy_of(model).hf, copy_of(model if ends == "own" else other).hf
    theirs = copy_of(other).hf
    into = by_hooks.blocks(shell)
    for layer in range(len(into)):
        given = by_hooks.blocks(theirs)[blocks[layer]] if layer in blocks else None
        weights = (given or by_hooks.blocks(source)[layer]).state_dict()
        into[layer].load_state_dict(weights)
    return shell


@pytest.mark.parametrize("ends", ["own", "other"])
@pytest.mark.parametrize("family", ["gpt2", "llama"])
def test_every_way_is_that_of_exchanged_modules(family: str, ends: str) -> None:
    model, other = pair(family)
    found = ll.layer_swap(model, TEXTS, other=other, ends=ends)
    assert found.checks.ok and found.data.attrs["complete"] == 1
    elsewhere = derangement(3, 0)
    for layer in range(3):
        ways = {
            "alone": {layer: layer},
            "and all before": {each: each for each in range(layer + 1)},
            "and all after": {each: each for each in range(layer, 3)},
            "of another layer": {layer: elsewhere[layer]},
        }
        for way, blocks in ways.items():
            here = found.data.sel(layer=layer, block=way)
            wanted = measured(model.hf, exchanged(model, other, blocks, ends))
            for name, value in wanted.items():
                assert float(here[name]) == pytest.approx(value, rel=1e-3, abs=1e-5), (way, name)


def test_all_swapped_is_the_other_model_and_none_is_its_own() -> None:
    model, other = pair("gpt2")
    found = ll.layer_swap(model, TEXTS, other=other, ends="other").data
    assert float(found.kl_other.sel(block="and all after", layer=0)) == pytest.approx(0, abs=1e-9)
    assert float(found.kl_other.sel(block="and all before", layer=2)) == pytest.approx(0, abs=1e-9)
    change = float(found.loss_change.sel(block="and all after", layer=0))
    assert change == pytest.approx(float(found.other_loss - found.loss), abs=1e-6)
    same = ll.layer_swap(model, TEXTS, other=copy_of(model)).data
    for way in ("alone", "and all before", "and all after"):
        assert float(abs(same.kl.sel(block=way)).max()) == 0
    assert float(same.kl.sel(block="of another layer").min()) > 1e-4


def test_a_model_that_is_being_trained_is_run_as_it_answers() -> None:
    """Dropout would make each of its blocks another one, in either analysis."""
    model, other = pair("gpt2")
    swapped = ll.layer_swap(model, TEXTS, other=other).data.kl_other.values
    way = ll.mode_connectivity(model, TEXTS, other=other, points=3).data.layer_loss.values
    other.hf.train()
    again = ll.layer_swap(model, TEXTS, other=other).data.kl_other.values
    assert np.array_equal(swapped, again)
    anew = ll.mode_connectivity(model, TEXTS, other=other, points=3).data.layer_loss.values
    assert np.array_equal(way, anew) and other.hf.training


def test_the_block_that_differs_is_found() -> None:
    """Only block 1 is another: it costs, alone or in any set, and no other block does."""
    model = by_hooks.wrapped("llama")
    other = copy_of(model)
    with torch.no_grad():
        for weight in by_hooks.blocks(other.hf)[1].parameters():
            weight.mul_(1.5)
    kl = ll.layer_swap(model, TEXTS, other=other).data.kl
    assert (kl.sel(block="alone").values > 1e-4).tolist() == [False, True, False]
    assert (kl.sel(block="and all before").values > 1e-4).tolist() == [False, True, True]
    assert (kl.sel(block="and all after").values > 1e-4).tolist() == [True, True, False]


def test_weights_are_back_when_the_comparison_is_stopped(monkeypatch: pytest.MonkeyPatch) -> None:
    model, other = pair("gpt2")
    before = [(p.data_ptr(), p.detach().clone()) for p in model.hf.parameters()]
    own = SwapRun._naive

    def stopped(self: SwapRun, *given: Any) -> Tensor:
        def tick() -> None:
            places = [parameter.data_ptr() for parameter in model.hf.parameters()]
            assert places != [place for place, _ in before]
            raise Cancelled("The analysis was stopped.")

        monkeypatch.setattr(given[0].mine, "without", tick)
        return own(self, *given)

    monkeypatch.setattr(SwapRun, "_naive", stopped)
    with pytest.raises(Cancelled):
        ll.layer_swap(model, TEXTS, other=other)
    for parameter, (place, numbers) in zip(model.hf.parameters(), before, strict=True):
        assert parameter.data_ptr() == place and torch.equal(parameter, numbers)


def test_what_does_not_fit_is_refused() -> None:
    model, other = pair("gpt2")
    with pytest.raises(InputError, match="ends is 'mine'"):
        ll.layer_swap(model, TEXTS, other=other, ends="mine")
    with pytest.raises(InputError, match="states belong to each other"):
        ll.layer_swap(model, TEXTS, other=ll.load("toy:induction"))
