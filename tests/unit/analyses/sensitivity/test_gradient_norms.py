"""Gradients of the loss by layer: those of plain autograd, of a frozen model, and their scale."""

from __future__ import annotations

import numpy as np
import pytest
import torch

import layerlens as ll
from layerlens.analyses.sensitivity.text_gradients import TextGradients
from layerlens.errors import InputError

from .. import by_hooks, without

IDS, OTHER = by_hooks.IDS, without.TEXTS[2]


def by_hand(family: str, ids: list[int], skip: int) -> tuple[list[float], list[float], float]:
    """Norms by one way back of the whole model: states, weights of each block, and the loss."""
    hf = by_hooks.plain(family)
    states = []

    def see(_: torch.nn.Module, args: tuple, kwargs: dict) -> None:
        states.append(args[0] if args else kwargs["hidden_states"])
        states[-1].retain_grad()

    blocks = by_hooks.blocks(hf)
    for block in blocks:
        block.register_forward_pre_hook(see, with_kwargs=True)

    def last(_: torch.nn.Module, __: tuple, output: object) -> None:
        states.append(output[0] if isinstance(output, tuple) else output)
        states[-1].retain_grad()

    blocks[-1].register_forward_hook(last)
    logits = hf(torch.tensor([ids])).logits[0]
    loss = torch.nn.functional.cross_entropy(logits[skip:-1], torch.tensor(ids[skip + 1 :]))
    loss.backward()
    slopes = [torch.cat([p.grad.flatten() for p in block.parameters()]) for block in blocks]
    by_state = [float(state.grad.norm()) for state in states]
    return by_state, [float(slope.norm()) for slope in slopes], float(loss.detach())


@pytest.mark.parametrize("family", by_hooks.FAMILIES)
@pytest.mark.parametrize("skip", [0, 2])
def test_norms_are_those_of_autograd(family: str, skip: int) -> None:
    model = by_hooks.wrapped(family)
    found = ll.gradient_norms(model, [IDS, OTHER], skip_first=skip)
    assert found.checks.ok and found.data.attrs["complete"] == 1
    each = [by_hand(family, ids, skip) for ids in (IDS, OTHER)]
    for place, name in enumerate(("state_gradient", "weight_gradient", "loss")):
        expected = np.mean([one[place] for one in each], axis=0)
        np.testing.assert_allclose(found.data[name].values, expected, rtol=1e-4)
    assert not np.allclose(found.data.state_gradient, found.data.state_gradient_chance)


def test_it_leaves_the_weights_as_they_are() -> None:
    model = by_hooks.wrapped("llama")
    parameters = list(model.hf.parameters())
    for parameter in parameters[::2]:
        parameter.requires_grad_(False)
    before = [p.requires_grad for p in parameters]
    frozen = ll.gradient_norms(model, IDS).data
    assert [p.requires_grad for p in parameters] == before
    assert all(p.grad is None for p in parameters)
    free = ll.gradient_norms(by_hooks.wrapped("llama"), IDS).data
    np.testing.assert_allclose(frozen.weight_gradient, free.weight_gradient, rtol=1e-6)


def test_norms_grow_in_proportion_to_the_loss() -> None:
    model = by_hooks.wrapped("llama")
    with model.running(gradients=True):
        text = TextGradients(model, model.tokens(IDS), 0, lambda: None)
        norms = []
        for weight in (1.0, 3.0):
            _, lasts = text.back(text.following, weight=weight)
            blocks = text.blocks(lasts)
            norms.append([block.states[0].norm().item() for block in blocks])
    np.testing.assert_allclose(3 * np.array(norms[0]), norms[1], rtol=1e-5)


def test_a_layer_that_does_nothing_hands_the_gradient_on() -> None:
    model = by_hooks.wrapped("llama")
    without.silence(model.hf, 1)
    data = ll.gradient_norms(model, IDS).data
    assert float(data.state_gradient[1]) == pytest.approx(float(data.state_gradient[2]))
    # Only what a silent sublayer writes with can learn.
    assert float(data.weight_gradient[1]) > 0


def test_what_does_not_fit() -> None:
    model = by_hooks.wrapped("gpt2")
    with pytest.raises(InputError, match="No next token counts"):
        ll.gradient_norms(model, [IDS, [5]])
