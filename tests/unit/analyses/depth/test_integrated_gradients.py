"""Integrated gradients by sublayer: of plain autograd, complete, and zero where nothing differs."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from torch import Tensor

import layerlens as ll
from layerlens.errors import InputError

from .. import by_hooks

IDS, OTHER = by_hooks.IDS, [7, 8, 9, 10]
STEPS = 50


def by_hand(family: str, layer: int, part: str, tokens: tuple[int, int]) -> tuple[Tensor, float]:
    """The attribution [position] by even midpoints, and the change of the logit difference."""
    hf = by_hooks.plain(family)
    module = by_hooks.part(hf, layer, part)
    kept: list[Tensor] = []
    first = lambda out: out[0] if isinstance(out, tuple) else out  # noqa: E731
    hook = module.register_forward_hook(lambda *given: kept.append(first(given[2]).detach()))

    def measure() -> Tensor:
        logits = hf(torch.tensor([IDS])).logits[0, -1]
        return logits[tokens[0]] - logits[tokens[1]]

    clean = measure()
    hook.remove()
    own = kept[0][0]
    base = own.mean(0)

    def with_it(value: Tensor) -> Tensor:
        def put(_: torch.nn.Module, __: object, out: object) -> object:
            return (value[None], *out[1:]) if isinstance(out, tuple) else value[None]

        handle = module.register_forward_hook(put)
        try:
            return measure()
        finally:
            handle.remove()

    total = torch.zeros_like(own)
    for step in range(STEPS):
        value = (base + (step + 0.5) / STEPS * (own - base)).requires_grad_()
        total += torch.autograd.grad(with_it(value), value)[0] / STEPS
    change = float((clean - with_it(base.expand_as(own))).detach())
    return ((own - base) * total).sum(-1), change


@pytest.mark.parametrize("family", ["gpt2", "llama"])
def test_each_row_is_that_of_plain_autograd(family: str) -> None:
    found = ll.integrated_gradients(by_hooks.wrapped(family), IDS, answer=20, wrong=33)
    assert found.checks.ok and found.data.attrs["complete"] == 1
    data = found.data
    assert data.sublayer.values.tolist() == [f"{i} {p}" for i in range(3) for p in ("attn", "mlp")]
    for layer, part in ((0, "attn"), (2, "mlp")):
        place = data.sublayer.values.tolist().index(f"{layer} {part}")
        attribution, change = by_hand(family, layer, part, (20, 33))
        np.testing.assert_allclose(data.attribution[place], attribution, atol=5e-4)
        assert float(data.change[place]) == pytest.approx(change, abs=1e-4)
        total = float(data.attribution[place].sum())
        assert total == pytest.approx(change, abs=1e-3)
        assert float(data.missed[place]) == pytest.approx(change - total, abs=1e-4)


def test_too_few_steps_are_told_of() -> None:
    model = ll.load("toy:addition")
    few = ll.integrated_gradients(model, "478+354=0", metric="probability", steps=2)
    assert not few.checks.ok and "more steps" in few.data.attrs["notes"]
    enough = ll.integrated_gradients(model, "478+354=0")
    assert enough.checks.ok
    assert enough.data.steps_used.values.max() > enough.data.steps_used.values.min()


def test_a_sublayer_that_writes_the_same_everywhere_adds_nothing() -> None:
    model = by_hooks.wrapped("gpt2")
    output = by_hooks.part(model.hf, 1, "mlp").c_proj
    with torch.no_grad():
        output.weight.zero_()
        output.bias.fill_(0.3)
    data = ll.integrated_gradients(model, IDS, layers=[1]).data
    place = data.sublayer.values.tolist().index("1 mlp")
    np.testing.assert_allclose(data.attribution[place], 0, atol=1e-6)
    assert abs(float(data.change[place])) < 1e-5
    assert abs(float(data.change[1 - place])) > 1e-3


def test_several_texts_are_each_their_own() -> None:
    model = by_hooks.wrapped("llama")
    limit = 10**6  # so that steps are taken a few at a time
    both = ll.integrated_gradients(model, [IDS, OTHER], answer=[20, 3], memory_limit=limit).data
    alone = ll.integrated_gradients(model, OTHER, answer=3).data
    np.testing.assert_allclose(both.attribution[1, :, :4], alone.attribution, atol=1e-5)
    assert np.isnan(both.attribution[1, :, 4:]).all()


def test_what_does_not_fit() -> None:
    model = by_hooks.wrapped("gpt2")
    with pytest.raises(InputError, match="A rank has no derivative"):
        ll.integrated_gradients(model, IDS, metric="rank")
    with pytest.raises(InputError, match="steps is 0"):
        ll.integrated_gradients(model, IDS, steps=0)
    counting = lambda logits: (logits > 0).sum(-1)  # noqa: E731
    with pytest.raises(InputError, match="no derivative"):
        ll.integrated_gradients(model, IDS, metric=counting)
