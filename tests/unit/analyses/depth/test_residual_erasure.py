"""Erased states: against plain hooks, where nothing can change, and what an answer is read from."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import pytest
import torch
from torch import Tensor

import layerlens as ll
from layerlens.errors import InputError

from .. import by_hooks

IDS, OTHER = by_hooks.IDS, [7, 8, 9, 10]


def states(hf: torch.nn.Module, ids: list[int]) -> list[Tensor]:
    """The state before each block, [position, d_model], by plain hooks."""
    found: list[Tensor] = []

    def see(_: torch.nn.Module, args: tuple[Tensor, ...], kwargs: dict[str, Tensor]) -> None:
        found.append((args[0] if args else kwargs["hidden_states"])[0].clone())

    hooks = [b.register_forward_pre_hook(see, with_kwargs=True) for b in by_hooks.blocks(hf)]
    with torch.no_grad():
        hf(torch.tensor([ids]))
    for hook in hooks:
        hook.remove()
    return found


def put(hf: torch.nn.Module, layer: int, at: int, new: Tensor) -> Tensor:
    """Probabilities [position, token] with one state replaced."""

    def change(_: torch.nn.Module, args: tuple, kwargs: dict) -> tuple[tuple, dict]:
        state = (args[0] if args else kwargs["hidden_states"]).clone()
        state[0, at] = new
        return ((state, *args[1:]), kwargs) if args else (args, {**kwargs, "hidden_states": state})

    hook = by_hooks.blocks(hf)[layer].register_forward_pre_hook(change, with_kwargs=True)
    try:
        with torch.no_grad():
            return hf(torch.tensor([IDS])).logits[0].softmax(-1)
    finally:
        hook.remove()


@pytest.mark.parametrize("family", by_hooks.FAMILIES)
def test_each_cell_equals_plain_hooks(family: str) -> None:
    found = ll.residual_erasure(by_hooks.wrapped(family), IDS, reference=OTHER)
    assert found.checks.ok and found.data.attrs["complete"] == 1
    hf = by_hooks.plain(family)
    with torch.no_grad():
        own = hf(torch.tensor([IDS])).logits[0, -1].softmax(-1)
    means = [state[1:].mean(0) for state in states(hf, OTHER)]
    for layer, mean in enumerate(means):
        for at in range(len(IDS)):
            wanted = float((put(hf, layer, at, mean)[-1] - own).norm())
            assert float(found.data.effect[layer, at]) == pytest.approx(wanted, abs=2e-6)


@pytest.mark.parametrize(("reduce", "how"), [("max", Tensor.amax), ("mean", Tensor.mean)])
def test_of_several_answers_each_is_measured(reduce: str, how: Callable[..., Tensor]) -> None:
    model, hf = by_hooks.wrapped("llama"), by_hooks.plain("llama")
    found = ll.residual_erasure(model, IDS, reference=OTHER, answers=[1, 2, 4], reduce=reduce)
    assert found.checks.ok and found.data.attrs["complete"] == 1
    with torch.no_grad():
        own = hf(torch.tensor([IDS])).logits[0].softmax(-1)
    for layer, mean in enumerate(state[1:].mean(0) for state in states(hf, OTHER)):
        for at in range(len(IDS)):
            far = (put(hf, layer, at, mean) - own).norm(dim=-1)[[1, 2, 4]]
            assert float(found.data.effect[layer, at]) == pytest.approx(float(how(far)), abs=2e-6)
    # No answer comes after them; other numbers of rows are rounded otherwise on some processors.
    assert float(found.data.effect[:, 5:].max()) < 1e-6


def test_answers_of_several_texts_are_one_each() -> None:
    model = by_hooks.wrapped("gpt2")
    both = ll.residual_erasure(model, [IDS, OTHER], answers=[[-1, 2], [1]]).data
    for row, (own, other, answers) in enumerate([(IDS, OTHER, [-1, 2]), (OTHER, IDS, [1])]):
        alone = ll.residual_erasure(model, own, reference=other, answers=answers).data
        np.testing.assert_allclose(
            both.effect[row].values[:, : len(own)], alone.effect.values, atol=2e-6
        )
    last = ll.residual_erasure(model, IDS, reference=OTHER, answers=-1, seed=2).data
    usual = ll.residual_erasure(model, IDS, reference=OTHER, seed=2).data
    np.testing.assert_allclose(last.effect.values, usual.effect.values, atol=2e-6)
    np.testing.assert_allclose(last.effect_chance.values, usual.effect_chance.values, atol=2e-6)
    with pytest.raises(InputError, match="may mean one position each"):
        ll.residual_erasure(model, [IDS, OTHER], answers=[1, 2])
    with pytest.raises(InputError, match="reduce is 'sum'"):
        ll.residual_erasure(model, IDS, answers=-1, reduce="sum")


def test_the_control_moves_a_state_just_as_far() -> None:
    model = by_hooks.wrapped("llama")
    found = ll.residual_erasure(model, IDS, reference=OTHER, seed=3).data
    hf = by_hooks.plain("llama")
    before, means = states(hf, IDS), states(hf, OTHER)
    random = torch.Generator().manual_seed(3)
    with torch.no_grad():
        own = hf(torch.tensor([IDS])).logits[0, -1].softmax(-1)
    for at in range(2):
        state, mean = before[0][at].double(), means[0][1:].double().mean(0)
        way = torch.randn(len(mean), generator=random, dtype=torch.float64)
        new = state + way / way.norm() * (mean - state).norm()
        wanted = float((put(hf, 0, at, new.float())[-1] - own).norm())
        assert float(found.effect_chance[0, at]) == pytest.approx(wanted, abs=2e-6)


def test_before_the_last_layer_only_what_it_reads_counts() -> None:
    """A last block that writes nothing reads nothing: only the answer's own state is left."""
    model = by_hooks.wrapped("llama")
    last = model.hf.model.layers[-1]
    with torch.no_grad():
        last.self_attn.o_proj.weight.zero_()
    effect = ll.residual_erasure(model, IDS).data.effect.values
    assert (effect[-1, :-1] < 1e-6).all() and effect[-1, -1] > 1e-3
    assert (effect[0, :-1] > 1e-6).all()


def test_several_texts_are_each_erased_by_the_others() -> None:
    model = by_hooks.wrapped("gpt2")
    both = ll.residual_erasure(model, [IDS, OTHER]).data
    alone = ll.residual_erasure(model, IDS, reference=OTHER).data
    np.testing.assert_allclose(both.effect[0].values, alone.effect.values, atol=2e-6)
    assert np.isnan(both.effect[1].values[:, len(OTHER) :]).all()
    assert np.isfinite(both.effect[1].values[:, : len(OTHER)]).all()
    some = ll.residual_erasure(model, IDS, reference=OTHER, positions=[1, -1]).data
    np.testing.assert_allclose(some.effect.values, alone.effect.values[:, [1, -1]], atol=2e-6)


def test_an_induction_answer_rests_on_the_token_after_the_first_match() -> None:
    """Of the tokens in the middle only the one that is copied is still needed at the end."""
    text, other = [3, 6, 5, 9, 4, 7, 5], [[8, 2, 11, 12, 13]]
    data = ll.residual_erasure(ll.load("toy:induction"), text, reference=other).data
    late = data.effect.values[-1, 1:-1]
    assert late.argmax() == 2 and late[2] > 3 * np.delete(late, 2).max()


def test_without_a_token_to_take_a_mean_of_it_says_so() -> None:
    with pytest.raises(InputError, match="No token is left"):
        ll.residual_erasure(by_hooks.wrapped("gpt2"), [5])
