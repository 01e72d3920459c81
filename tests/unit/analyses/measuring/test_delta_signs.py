"""Signs of changes against plain torch over the whole model, and with planted changes."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch

import layerlens as ll
from layerlens.analyses.measuring.signs_run import cut
from layerlens.errors import InputError
from layerlens.export.setup import setup_code
from layerlens.model.lensmodel import LensModel

from .. import by_hooks
from ..copies import copy_of


def tuned(model: LensModel, seed: int, blocks: float = 1.0) -> LensModel:
    """A copy with all weights moved at random, those of later blocks by more."""
    other = copy_of(model)
    other.name = f"tuned {seed}"
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for layer, block in enumerate(by_hooks.blocks(other.hf)):
            for weight in block.parameters():
                noise = torch.randn(weight.shape, generator=generator)
                weight.add_(0.01 * (1 + blocks * layer) * noise)
    return other


def flat(model: LensModel, layer: int) -> dict[str, torch.Tensor]:
    return {n: w.detach() for n, w in by_hooks.blocks(model.hf)[layer].named_parameters()}


def test_every_number_is_that_of_its_definition() -> None:
    base = by_hooks.wrapped("llama")
    others = [tuned(base, seed) for seed in (1, 2, 3)]
    found = ll.delta_signs(base, others, keep=0.3)
    data = found.data
    assert found.checks.ok and data.attrs["complete"] == 1
    deltas = [
        torch.cat([(flat(one, layer)[n] - w).flatten() for layer in range(3)
                   for n, w in flat(base, layer).items()])
        for one in others
    ]  # fmt: skip
    limits = [d.abs().sort(descending=True).values[round(0.3 * len(d)) - 1] for d in deltas]
    assert data.threshold.values.tolist() == pytest.approx([float(x) for x in limits])
    for layer in (0, 2):
        for place, (name, own) in enumerate(flat(base, layer).items()):
            here = data.isel(weight=place, layer=layer)
            kept = []
            for one, limit in zip(others, limits, strict=True):
                change = (flat(one, layer)[name] - own).flatten()
                kept.append(change.where(change.abs() >= limit, 0.0).double().numpy())
            rows = np.stack(kept)
            several = (rows != 0).sum(0) > 1
            equal = [len(set(np.sign(c[c != 0]))) == 1 for c in rows.T[several]]
            chance = [0.5 ** ((c != 0).sum() - 1) for c in rows.T[several]]
            if several.any():
                assert float(here.agreement) == pytest.approx(np.mean(equal))
                assert float(here.agreement_chance) == pytest.approx(np.mean(chance))
            assert float(here.kept) == pytest.approx((rows != 0).mean())
            strength = np.abs(rows.sum(0)).sum() / np.abs(rows).sum()
            assert float(here.strength) == pytest.approx(strength)


def test_independent_changes_agree_by_chance_and_equal_ones_always() -> None:
    base = by_hooks.wrapped("gpt2")
    one, two = tuned(base, 1, 0), tuned(base, 2, 0)
    chance = ll.delta_signs(base, [one, two], keep=1).data
    count = sum(w.numel() for w in by_hooks.blocks(base.hf)[0].parameters())
    off = 4 * 0.5 / count**0.5
    assert np.abs(chance.layer_agreement.values - 0.5).max() < off
    assert np.abs(chance.layer_agreement_chance.values - 0.5).max() < 1e-9
    # Of independent normal changes of n models 1 / sqrt(n) is left.
    assert np.abs(chance.layer_strength.values - 0.5**0.5).max() < off
    assert np.abs(chance.layer_strength_chance.values - 0.5**0.5).max() < off
    cut_ = ll.delta_signs(base, [one, two], keep=0.2).data
    assert np.abs(cut_.layer_shared.values - cut_.layer_shared_chance.values).max() < 0.03
    same = ll.delta_signs(base, [one, copy_of(one)]).data
    for name in ("layer_agreement", "layer_strength", "layer_shared"):
        assert np.allclose(same[name].values, 1)
    against = copy_of(base)
    with torch.no_grad():
        for mine, was, now in zip(
            against.hf.parameters(), base.hf.parameters(), one.hf.parameters(), strict=True
        ):
            mine.copy_(2 * was - now)
    opposed = ll.delta_signs(base, [one, against], keep=0.5).data
    assert float(opposed.layer_agreement.max()) == 0
    assert float(opposed.layer_strength.max()) < 1e-3


@pytest.mark.parametrize("keep", [0.01, 0.37, 1.0])
def test_the_cut_is_that_of_sorting(keep: float) -> None:
    torch.manual_seed(0)
    parts = [torch.randn(n).abs() for n in (700, 41)] + [torch.full((9,), 0.5)]
    number, (asked, tied) = cut(lambda: parts, keep)
    ordered = torch.cat(parts).sort(descending=True).values
    assert asked == round(keep * 750) and number == float(ordered[asked - 1])
    assert tied == int((torch.cat(parts) == number).sum())


def test_the_call_names_several_models() -> None:
    base = by_hooks.wrapped("gpt2")
    found = ll.delta_signs(base, [tuned(base, 1), tuned(base, 2)], keep=0.5)
    assert found.code == "ll.delta_signs(model, others=others, keep=0.5)"
    assert "others = [ll.load(hf, tokenizer), ll.load(hf, tokenizer)]" in setup_code(
        {**found.data.attrs}
    )


def test_what_does_not_fit_is_refused() -> None:
    base: Any = by_hooks.wrapped("gpt2")
    with pytest.raises(InputError, match="Models in others: 1"):
        ll.delta_signs(base, [base])
    with pytest.raises(InputError, match="has changed fewer weights"):
        ll.delta_signs(base, [copy_of(base), tuned(base, 1)])
    with pytest.raises(InputError, match="one architecture"):
        ll.delta_signs(base, [ll.load("toy:induction")] * 2)
