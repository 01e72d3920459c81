"""Massive entries replaced: by plain hooks, planted ones whose cost is known, and the control."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

import layerlens as ll
from layerlens.analyses.removal.massive_text import Entries
from layerlens.errors import InputError
from layerlens.metrics.batch import Batch
from layerlens.model.lensmodel import LensModel
from tests.unit.metrics import measuring

from .. import by_hooks, without

TEXTS = without.TEXTS
RULE: dict[str, Any] = {"times_median": 4.0, "relative": True}


def massive(state: Tensor) -> Tensor:
    """The rule by hand, of one text."""
    size = state.abs()
    return size >= 4 * size.flatten().median()


def replaced(hf: Any, ids: list[int], layer: int, new: Tensor) -> Tensor:
    """Logits with the state after a block set."""

    def change(_: Any, args: Any, output: Any) -> Any:
        return (new[None], *output[1:]) if isinstance(output, tuple) else new[None]

    handle = by_hooks.blocks(hf)[layer].register_forward_hook(change)
    try:
        return without.run(hf, ids)[1]
    finally:
        handle.remove()


@pytest.mark.parametrize("family", without.FAMILIES)
@pytest.mark.parametrize("batch_size", [None, 1])
def test_every_layer_equals_plain_hooks(family: str, batch_size: int | None) -> None:
    model = by_hooks.wrapped(family)
    found = ll.massive_ablation(model, TEXTS, **RULE, batch_size=batch_size, verify=2)
    assert found.checks.ok
    assert len(found.checks) == 1
    assert found.data.attrs["complete"] == 1
    hf = by_hooks.plain(family)
    clean = [without.run(hf, ids) for ids in TEXTS]
    for layer in range(3):
        states = [states[layer + 1] for states, _ in clean]
        masks = [massive(state) for state in states]
        assert float(found.data.massive[layer]) == np.mean([int(m.sum()) for m in masks])
        sums = sum(s.where(m, 0.0).sum(0) for s, m in zip(states, masks, strict=True))
        counts = sum(m.sum(0) for m in masks)
        mean = sums / counts.clamp(min=1)
        for how, new in (("zero", torch.zeros(1)), ("mean", mean)):
            kls, changes = [], []
            for ids, (_, logits), state, mask in zip(TEXTS, clean, states, masks, strict=True):
                if mask.any():
                    other = replaced(hf, ids, layer, torch.where(mask, new, state))
                    kls.append(without.kl(logits, other)[1:])
                    changes.append((without.loss(other, ids) - without.loss(logits, ids))[1:])
            value = float(found.data[f"kl_{how}"][layer])
            assert value == pytest.approx(float(torch.cat(kls).mean()), abs=1e-5, rel=1e-3)
            value = float(found.data[f"loss_change_{how}"][layer])
            assert value == pytest.approx(float(torch.cat(changes).mean()), abs=1e-5, rel=1e-3)


def planted(values: dict[int, float]) -> LensModel:
    """A model of blocks that hand on; the first sets dimension 7 of token 0, by its token id."""

    def plant(h: Tensor) -> Tensor:
        h = h.clone()
        for token, value in values.items():
            own = (h[:, 0] - model.hf.transformer.wte.weight[token]).abs().amax(-1) < 1e-6
            h[own, 0, 7] = value
        return h

    model = measuring.planted(64, [plant, lambda h: h])
    return model


def test_blocks_that_hand_on_lose_only_at_the_token_itself() -> None:
    model = planted({4: -5000.0, 9: -5000.0})
    texts = [[4, 5, 6, 1], [9, 8, 7, 2, 3], [3, 3, 2]]
    later = ll.massive_ablation(model, texts).data
    np.testing.assert_allclose(later.massive, 2 / 3)
    np.testing.assert_allclose(later.kl_zero, 0, atol=1e-7)
    here = ll.massive_ablation(model, texts, skip_first=False).data
    assert (here.kl_zero > 0.01).all()
    np.testing.assert_allclose(here.kl_mean, 0, atol=1e-7)  # both texts have the same value
    opposite = planted({4: -5000.0, 9: 5000.0})  # their mean is 0
    data = ll.massive_ablation(opposite, texts, skip_first=False).data
    assert (data.kl_mean > 0.01).all()
    np.testing.assert_allclose(data.kl_mean, data.kl_zero, rtol=1e-6)


def test_where_nothing_is_massive_it_is_said() -> None:
    found = ll.massive_ablation(by_hooks.wrapped("gpt2"), TEXTS)
    assert np.isnan(found.data.kl_zero).all()
    assert np.isnan(found.data.kl_random_zero).all()
    assert (found.data.massive == 0).all()
    assert "No entry is massive" in str(found.data.attrs["notes"])
    assert len(found.checks) == 0


def test_the_control_is_as_many_others_of_the_same_text_whatever_the_batch() -> None:
    model = by_hooks.wrapped("llama")
    tokens = model.tokens(TEXTS)
    state = torch.randn(*tokens.ids.shape, 32, generator=torch.Generator().manual_seed(0))
    rule = {"threshold": 0.0, "times_median": 3.0, "relative": True}
    entries = Entries(state, Batch(tokens, range(3)), rule)
    found = entries.drawn(1, 0, 0)
    assert entries.texts.min() > 0
    assert torch.equal(found.sum((1, 2)), entries.texts)
    assert not (found & entries.massive).any()
    assert not found[~tokens.mask].any()
    assert not torch.equal(found, entries.drawn(1, 1, 0))
    one = model.tokens([TEXTS[1]])
    alone = Entries(state[1:2, : len(TEXTS[1])], Batch(one, [1]), rule)
    assert torch.equal(alone.drawn(1, 0, 0)[0], found[1, : len(TEXTS[1])])


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"times_median": 1.0}, "more than 1"),
        ({"draws": 0}, "draws"),
        ({"layers": [9]}, "9"),
        ({"skip_first": 99}, "counts"),
    ],
)
def test_what_does_not_fit_is_refused(options: dict[str, Any], words: str) -> None:
    with pytest.raises(InputError, match=words):
        ll.massive_ablation(by_hooks.wrapped("gpt2"), TEXTS, **options)
