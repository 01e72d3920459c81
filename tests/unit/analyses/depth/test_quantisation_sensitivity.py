"""Rounding one layer: against rounding by hand, with weights that are on the grid, and back."""

from __future__ import annotations

from itertools import product
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor
from transformers import PreTrainedModel

import layerlens as ll
from layerlens.analyses.contract.listeners import Silent
from layerlens.analyses.depth.bit_allocation import allocate
from layerlens.errors import Cancelled, InputError
from layerlens.model.lensmodel import LensModel
from layerlens.model.tiny import tiny_model
from layerlens.run.quantise import fake_quantise

from .. import by_hooks, without

TEXTS = without.TEXTS


def by_hand(weight: Tensor, bits: int, group: int | None) -> Tensor:
    """Round a matrix ``[out, in]`` entry by entry."""
    most = 2 ** (bits - 1) - 1
    out = weight.clone().double()
    for row in out:
        for start in range(0, len(row), group or len(row)):
            part = row[start : start + (group or len(row))]
            scale = part.abs().max() / most
            part.copy_((part / scale).round() * scale)
    return out.to(weight.dtype)


def round_layer(hf: PreTrainedModel, layer: int, bits: int, group: int | None) -> None:
    """Round every matrix of a block for good."""
    with torch.no_grad():
        for module in by_hooks.blocks(hf)[layer].modules():
            weight = getattr(module, "weight", None)
            if weight is None or weight.dim() != 2:
                continue
            turned = type(module).__name__ == "Conv1D"
            new = by_hand(weight.T if turned else weight, bits, group)
            weight.copy_(new.T if turned else new)


@pytest.mark.parametrize("family", without.FAMILIES)
@pytest.mark.parametrize("group", [None, 8])
def test_each_layer_equals_rounding_by_hand(family: str, group: int | None) -> None:
    model = by_hooks.wrapped(family)
    result = ll.quantisation_sensitivity(model, TEXTS, bits=[3, 8], group=group, verify=3)
    assert result.checks.ok and result.data.attrs["complete"] == 1
    clean = [without.run(by_hooks.plain(family), ids)[1] for ids in TEXTS]
    for layer in range(3):
        for bits in (3, 8):
            hf = by_hooks.plain(family)
            round_layer(hf, layer, bits, group)
            other = [without.run(hf, ids)[1] for ids in TEXTS]
            pairs = list(zip(clean, other, TEXTS, strict=True))
            kls = torch.cat([without.kl(a, b)[1:] for a, b, _ in pairs])
            change = [(without.loss(b, t) - without.loss(a, t))[1:] for a, b, t in pairs]
            found = result.data.sel(layer=layer, bits=bits)
            assert float(found.kl) == pytest.approx(float(kls.mean()), abs=1e-5, rel=1e-3)
            wanted = float(torch.cat(change).mean())
            assert float(found.loss_change) == pytest.approx(wanted, abs=1e-5)


def test_rounding_is_to_the_nearest_step_of_each_channel() -> None:
    found = fake_quantise(torch.tensor([[3.0, -1.6, 0.4], [0.0, 0.0, 0.0], [0.7, 0.1, -0.7]]), 3)
    wanted = torch.tensor([[3.0, -2.0, 0.0], [0.0, 0.0, 0.0], [0.7, 0.0, -0.7]])
    torch.testing.assert_close(found, wanted)
    grouped = fake_quantise(torch.tensor([[7.0, 1.4, 0.7, 0.12]]), 4, group=2)
    torch.testing.assert_close(grouped, torch.tensor([[7.0, 1.0, 0.7, 0.1]]))
    weight = torch.randn(5, 33, generator=torch.Generator().manual_seed(0))
    for bits in (2, 4, 8):
        error = (fake_quantise(weight, bits) - weight).abs()
        step = weight.abs().amax(-1, keepdim=True) / (2 ** (bits - 1) - 1)
        assert (error <= step / 2 + 1e-6).all()


@pytest.mark.parametrize("family", without.FAMILIES)
def test_weights_on_the_grid_and_many_bits_change_nothing(family: str) -> None:
    model = by_hooks.wrapped(family)
    with torch.no_grad():
        for layer in range(3):
            round_layer(model.hf, layer, 4, None)
    data = ll.quantisation_sensitivity(model, TEXTS, bits=[4, 24]).data
    assert float(data.weight_error.max()) < 1e-6
    assert float(abs(data.kl).max()) < 1e-6 and float(abs(data.loss_change).max()) < 1e-5
    coarse = ll.quantisation_sensitivity(model, TEXTS, bits=2).data
    assert float(coarse.kl.min()) > 1e-3


def test_only_the_chosen_matrices_are_rounded() -> None:
    model = by_hooks.wrapped("llama")
    data = ll.quantisation_sensitivity(model, TEXTS, bits=3, chosen="mlp", layers=[1]).data
    hf = by_hooks.plain("llama")
    with torch.no_grad():
        for module in hf.model.layers[1].mlp.children():
            if hasattr(module, "weight"):
                module.weight.copy_(by_hand(module.weight, 3, None))
    pairs = [(without.run(by_hooks.plain("llama"), t)[1], without.run(hf, t)[1]) for t in TEXTS]
    wanted = float(torch.cat([without.kl(*pair)[1:] for pair in pairs]).mean())
    assert data.layer.values.tolist() == [1] and data.kl.dims == ("layer",)
    assert float(data.kl[0]) == pytest.approx(wanted, rel=1e-3)
    assert int(data.weights[0]) == sum(p.numel() for p in hf.model.layers[1].mlp.parameters())


@pytest.mark.parametrize("family", [*without.FAMILIES, "mixtral"])
def test_the_weights_come_back_bit_by_bit_also_after_a_stop(family: str) -> None:
    model = LensModel.wrap(tiny_model(family, seed=1), None, name=family, prove=False)
    before = {name: (w.clone(), w.data_ptr()) for name, w in model.hf.named_parameters()}

    class Stop(Silent):
        def on_progress(self, done: int, total: int, what: str) -> None:
            self.done = done

        def cancelled(self) -> bool:
            # Asked in the middle of a replay, while the weights are the rounded ones.
            inside = any(w.data_ptr() != before[n][1] for n, w in model.hf.named_parameters())
            self.met = getattr(self, "met", False) or inside
            return inside and getattr(self, "done", 0) == 1

    stop = Stop()
    with pytest.raises(Cancelled):
        ll.quantisation_sensitivity.run(model, TEXTS, {}, stop)
    assert stop.met
    ll.quantisation_sensitivity(model, TEXTS)
    for name, weight in model.hf.named_parameters():
        assert torch.equal(weight, before[name][0]) and weight.data_ptr() == before[name][1]
        assert weight.requires_grad and not weight.is_inference()


def test_experts_are_rounded_one_by_one() -> None:
    weight = torch.randn(4, 3, 8)
    one = torch.stack([fake_quantise(expert, 4) for expert in weight])
    assert torch.equal(fake_quantise(weight, 4), one)


def test_quantised_and_shared_weights_are_refused() -> None:
    model = by_hooks.wrapped("llama")
    model.hf.is_quantized = True
    with pytest.raises(InputError, match="quantised already"):
        ll.quantisation_sensitivity(model, TEXTS)
    model = by_hooks.wrapped("llama")
    layers = model.hf.model.layers
    layers[2].mlp.up_proj.weight = layers[0].mlp.up_proj.weight
    with pytest.raises(InputError, match="same weight"):
        ll.quantisation_sensitivity(model, TEXTS)
    ll.quantisation_sensitivity(model, TEXTS, layers=[1])
    layers[1].mlp.up_proj.weight = torch.nn.Parameter(
        torch.zeros(64, 32, dtype=torch.uint8), requires_grad=False
    )
    with pytest.raises(InputError, match="quantised"):
        ll.quantisation_sensitivity(model, TEXTS)


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"bits": 1}, "from 2 to 24"),
        ({"bits": [4, 0.5]}, "whole number"),
        ({"bits": 4.5}, "whole number"),
        ({"group": 0}, "group"),
        ({"chosen": "router"}, "router"),
        ({"layers": [9]}, "9"),
        ({"skip_first": 99}, "counts"),
    ],
)
def test_what_does_not_fit_is_refused(options: dict[str, Any], words: str) -> None:
    with pytest.raises(InputError, match=words):
        ll.quantisation_sensitivity(by_hooks.wrapped("gpt2"), TEXTS, **options)


def test_intervals_are_over_texts() -> None:
    model = by_hooks.wrapped("gpt2")
    data = ll.quantisation_sensitivity(model, TEXTS, bits=3).data
    assert (data.kl_low <= data.kl).all() and (data.kl <= data.kl_high).all()
    alone = ll.quantisation_sensitivity(model, TEXTS[0], bits=3).data
    assert np.isnan(alone.kl_low).all()


def test_bits_are_dealt_out_within_a_budget() -> None:
    model = by_hooks.wrapped("llama")
    bits, budget = [2, 3, 5, 8], 4.0
    result = ll.quantisation_sensitivity(model, TEXTS, bits=bits, budget=budget)
    assert result.checks.ok
    assert result.data.attrs["complete"] == 1
    data = result.data
    sizes = data.weights.values
    sums = {
        choice: sum(float(data.kl[row, place]) for row, place in enumerate(choice))
        for choice in product(range(4), repeat=3)
        if np.dot(sizes, [bits[place] for place in choice]) <= budget * sizes.sum()
    }
    best = min(sums, key=lambda choice: sums[choice])
    assert data.allocated_bits.values.tolist() == [bits[place] for place in best]
    assert data.attrs["allocated_kl_sum"] == pytest.approx(sums[best])
    hf = by_hooks.plain("llama")
    clean = [without.run(by_hooks.plain("llama"), ids)[1] for ids in TEXTS]
    for layer, place in enumerate(best):
        round_layer(hf, layer, bits[place], None)
    other = [without.run(hf, ids)[1] for ids in TEXTS]
    kls = torch.cat([without.kl(a, b)[1:] for a, b in zip(clean, other, strict=True)])
    assert float(data.allocated_kl) == pytest.approx(float(kls.mean()), rel=1e-3)
    assert "allocated_kl" not in ll.quantisation_sensitivity(model, TEXTS, bits=bits).data


def test_the_best_choice_is_found_for_layers_of_any_size() -> None:
    random = np.random.default_rng(0)
    bits = [2, 3, 4, 8]
    for sizes in ([6, 6, 6, 6], [4, 6, 10, 0], [7, 11, 13, 17]):
        for average in (2.0, 2.5, 3.7, 8.0):
            losses = -np.sort(-random.random((4, 4)), axis=1)
            found = allocate(losses, sizes, bits, average)
            known = {
                choice: losses[range(4), choice].sum()
                for choice in product(range(4), repeat=4)
                if np.dot(sizes, np.take(bits, choice)) <= average * sum(sizes) + 1e-9
            }
            assert tuple(found) in known
            assert known[tuple(found)] == pytest.approx(min(known.values()))


def test_a_budget_has_to_be_enough_for_the_fewest_bits() -> None:
    model = by_hooks.wrapped("llama")
    with pytest.raises(InputError, match=r"budget is 2\.5; expected at least 3"):
        ll.quantisation_sensitivity(model, TEXTS, bits=[3, 4], budget=2.5)
    with pytest.raises(InputError, match="budget of quantisation_sensitivity has an effect only"):
        ll.quantisation_sensitivity(model, TEXTS, bits=4, budget=4)
