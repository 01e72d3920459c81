"""One pass that records its blocks: the states of the pass, and gradients block by block."""

from __future__ import annotations

import pytest
import torch

from layerlens.errors import Cancelled
from layerlens.run.recorded_blocks import record_blocks
from tests.unit.analyses import by_hooks, without


@pytest.mark.parametrize("family", by_hooks.FAMILIES)
def test_states_are_those_of_the_pass_and_slopes_go_back_through_each_block(family: str) -> None:
    model, ids = by_hooks.wrapped(family), by_hooks.IDS
    states: list[torch.Tensor] = []
    with model.running(gradients=True):
        blocks = record_blocks(model, model.tokens(ids), states.append)
    wanted, _ = without.run(by_hooks.plain(family), ids)
    for found, plain in zip(states, wanted, strict=True):
        torch.testing.assert_close(found[0], plain)
        assert not found.requires_grad
    # The chain of all blocks is the gradient of the whole: here of one entry of the last state.
    slope = torch.zeros_like(states[-1])
    slope[0, -1, 0] = 1
    for before, after in reversed(blocks):
        (slope,) = torch.autograd.grad(after, before, slope)
    hf, leaf = by_hooks.plain(family), states[0].clone().requires_grad_()
    last: list[torch.Tensor] = []

    def put(_: torch.nn.Module, args: tuple, kwargs: dict) -> tuple:
        return ((leaf, *args[1:]), kwargs) if args else (args, {**kwargs, "hidden_states": leaf})

    every = by_hooks.blocks(hf)
    every[0].register_forward_pre_hook(put, with_kwargs=True)
    every[-1].register_forward_hook(lambda _, __, out: last.append(without.first(out)))
    hf(torch.tensor([ids]))
    (whole,) = torch.autograd.grad(last[0][0, -1, 0], leaf)
    torch.testing.assert_close(slope, whole)


def test_a_pass_that_was_stopped_leaves_nothing_behind() -> None:
    model = by_hooks.wrapped("llama")

    def stop(state: torch.Tensor) -> None:
        raise Cancelled("stopped")

    before = torch.is_grad_enabled()
    with pytest.raises(Cancelled), model.running(gradients=True):
        record_blocks(model, model.tokens(by_hooks.IDS), stop)
    assert torch.is_grad_enabled() == before
    assert not any(b._forward_hooks or b._forward_pre_hooks for b in by_hooks.blocks(model.hf))
