"""Units put in another order: the same function, and found again where they were only shuffled."""

from __future__ import annotations

from itertools import permutations
from typing import Any

import numpy as np
import pytest
import torch

import layerlens as ll
from layerlens.analyses.grafting.symmetries import (
    SYMMETRIES,
    Units,
    held,
    numbers_of,
    require_symmetric,
    symmetries,
    units_of,
)
from layerlens.analyses.grafting.weight_matching import match
from layerlens.errors import InputError
from layerlens.model.evidence import error
from layerlens.model.lensmodel import LensModel
from layerlens.model.tiny import tiny_model

from .. import by_hooks
from ..copies import copy_of
from .test_layer_swap import TEXTS, logits


def shuffled(model: LensModel, kinds: Any, seed: int = 3) -> tuple[LensModel, list[Units]]:
    """A copy in which all units of some kinds stand elsewhere, with weights written in place."""
    other = copy_of(model)
    units, random = units_of(other, kinds), torch.Generator().manual_seed(seed)
    numbers = numbers_of(other, units)
    for one in units:
        one.reorder(numbers, one.drawn(random))
    weights = dict(other.hf.named_parameters())
    for name, data in numbers.items():
        weights[name].data = data
    other.name = "shuffled"
    return other, units


@pytest.mark.parametrize("family", by_hooks.FAMILIES)
@pytest.mark.parametrize("kinds", [*((kind,) for kind in SYMMETRIES), SYMMETRIES])
def test_a_shuffled_copy_computes_the_same_and_is_found_again(family: str, kinds: Any) -> None:
    model = by_hooks.wrapped(family)
    other, units = shuffled(model, kinds)
    own, theirs = model.hf.state_dict(), other.hf.state_dict()
    assert any(not torch.equal(own[name], theirs[name]) for name in own)
    says = (logits(copy_of(one).hf.double(), TEXTS[0]) for one in (other, model))
    assert error(*says) < 1e-6  # Llama's norms are float32 whatever it is loaded in
    found = match(model, other, units, 0)
    for name, numbers in found.numbers.items():
        assert torch.equal(numbers, own[name]), name
    with held(other, found.numbers):
        assert all(torch.equal(x, own[name]) for name, x in other.hf.state_dict().items())
    assert all(torch.equal(x, theirs[name]) for name, x in other.hf.state_dict().items())


def test_aligned_there_is_no_barrier_to_a_shuffled_copy() -> None:
    model = ll.load("toy:induction")
    texts = [[60, 5, 9, 1, 3, 7, 5, 9, 1, 3, 7]]
    other, _ = shuffled(model, SYMMETRIES)
    found = ll.mode_connectivity(model, texts, other=other, points=3, skip_first=6, align="all")
    data = found.data
    assert found.checks.ok and "same function" in [check.name for check in found.checks]
    assert np.abs(data.length.values).max() == 0 and data.length_baseline.values.min() > 1
    assert float(data.part_barrier.max()) < 1e-6 and float(data.barrier.max()) < 1e-6
    unaligned = data.all_loss_baseline.values
    assert unaligned[1] - unaligned[[0, -1]].mean() > 0.5
    plain = ll.mode_connectivity(model, texts, other=other, points=3, skip_first=6).data
    np.testing.assert_allclose(plain.all_loss.values, unaligned, atol=1e-6)
    assert not {"length", "moved", "all_loss_baseline"} & set(plain)


def test_moved_counts_units_that_stand_elsewhere() -> None:
    model = by_hooks.wrapped("gpt2")
    other = copy_of(model)
    (heads, *_) = units_of(other, ["heads"])
    numbers = numbers_of(other, [heads])
    heads.reorder(numbers, torch.tensor([1, 0, 2, 3]))
    with held(other, numbers):
        found = ll.mode_connectivity(model, TEXTS, other=other, points=3, align="heads").data
    assert found.moved.sel(units="heads").values.tolist() == [0.5, *[0.0] * (model.n_layers - 1)]


def test_heads_that_share_keys_and_values_get_the_best_order_that_keeps_them_together() -> None:
    model = by_hooks.wrapped("llama")
    torch.manual_seed(0)
    other = copy_of(model)
    for weight in other.hf.parameters():
        weight.data = torch.randn_like(weight)
    units = [units_of(other, ["heads"])[1]]
    assert (units[0].count, units[0].groups) == (4, 2)
    own, theirs = numbers_of(model, units), numbers_of(other, units)

    def product(order: tuple[int, ...]) -> float:
        numbers = dict(theirs)
        units[0].reorder(numbers, torch.tensor(order))
        return float(sum((own[name] * numbers[name]).sum() for name in own))

    pairs = ((0, 1), (2, 3))
    allowed = [
        (*one, *two)
        for first, second in permutations(pairs)
        for one in permutations(first)
        for two in permutations(second)
    ]
    best = max(allowed, key=product)
    assert tuple(match(model, other, units, 0).orders[0].tolist()) == best


@pytest.mark.parametrize(
    ("family", "kind", "words"),
    [
        ("bloom", "heads", "each has a part of its own"),  # ALiBi: each head its own slope
        ("mixtral", "neurons", "not one plain matrix"),
    ],
)
def test_what_is_no_symmetry_is_refused(family: str, kind: str, words: str) -> None:
    model = LensModel.wrap(tiny_model(family, seed=1), None, name=family, prove=False)
    with pytest.raises(InputError, match=words):
        require_symmetric(model, units_of(model, [kind]), 0)


def test_names_of_units_are_read() -> None:
    assert symmetries(None) == () and symmetries("all") == SYMMETRIES
    with pytest.raises(InputError, match="align has 'biases'"):
        symmetries(["heads", "biases"])
    with pytest.raises(InputError, match="no neurons"):
        units_of(LensModel.wrap(tiny_model("mamba", seed=1), None, prove=False), ["neurons"])
