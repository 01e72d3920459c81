"""Jacobians of blocks: against whole matrices, and of blocks whose Jacobian is known."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

import layerlens as ll
from layerlens.analyses.sweeps.jacobian_rows import estimates, evenly
from layerlens.errors import InputError
from layerlens.model.lensmodel import LensModel

from .. import by_hooks

IDS = by_hooks.IDS


def planted(*blocks: object) -> LensModel:
    """A GPT-2 whose blocks do what these functions say."""
    model = by_hooks.wrapped("gpt2")
    for block, does in zip(by_hooks.blocks(model.hf), blocks, strict=True):
        block.register_forward_hook(lambda _, args, output, does=does: does(args[0]))
    return model


def whole(model: LensModel, layer: int, at: int) -> Tensor:
    """The Jacobian of a block at one token, entry by entry."""
    hf, kept = model.hf, {}

    def see(_: torch.nn.Module, args: tuple, kwargs: dict) -> None:
        kept["args"], kept["kwargs"] = args, kwargs

    block = by_hooks.blocks(hf)[layer]
    hook = block.register_forward_pre_hook(see, with_kwargs=True)
    with torch.no_grad():
        hf(torch.tensor([IDS]), use_cache=False)
    hook.remove()
    state = kept["args"][0] if kept["args"] else kept["kwargs"]["hidden_states"]

    def own(row: Tensor) -> Tensor:
        given = state.clone()
        given[0, at] = row
        if kept["args"]:
            out = block(given, *kept["args"][1:], **kept["kwargs"])
        else:
            out = block(**{**kept["kwargs"], "hidden_states": given})
        return (out[0] if isinstance(out, tuple) else out)[0, at]

    found = torch.autograd.functional.jacobian(own, state[0, at])
    assert isinstance(found, Tensor)
    return found.double()


@pytest.mark.parametrize("family", by_hooks.FAMILIES)
def test_estimates_are_those_of_the_whole_matrix(family: str) -> None:
    model = by_hooks.wrapped(family)
    found = ll.block_jacobian(model, IDS, draws=300, per_text=1)
    assert found.checks.ok and found.data.attrs["complete"] == 1
    (at,) = evenly(range(1, len(IDS)), 1)
    for layer in range(model.n_layers):
        matrix = whole(model, layer, at)
        width = len(matrix)
        distance = (matrix - torch.eye(width).double()).norm() / width**0.5
        off = 1 - matrix.diagonal().square().sum() / matrix.square().sum()
        data = found.data.sel(layer=layer)
        assert float(data.jacobian_distance) == pytest.approx(float(distance), rel=0.05)
        assert float(data.jacobian_trace) == pytest.approx(float(matrix.trace()) / width, abs=0.1)
        assert float(data.jacobian_off_diagonal) == pytest.approx(float(off), abs=0.05)


def test_identity_scaling_and_a_full_matrix_are_what_they_are() -> None:
    width = by_hooks.wrapped("gpt2").d_model
    torch.manual_seed(0)
    turn = torch.linalg.qr(torch.randn(width, width)).Q
    model = planted(lambda h: h.clone(), lambda h: 1.25 * h, lambda h: h @ turn)
    data = ll.block_jacobian(model, IDS, draws=400, per_text=2).data
    assert data.jacobian_distance.values[:2] == pytest.approx([0, 0.25], abs=1e-6)
    assert data.jacobian_trace.values[:2] == pytest.approx([1, 1.25], abs=1e-6)
    assert data.jacobian_off_diagonal.values[:2] == pytest.approx([0, 0], abs=1e-6)
    assert data.jacobian_distance_chance.values[:2] == pytest.approx([0, 0.25], abs=1e-6)
    away = float((turn - torch.eye(width)).norm()) / width**0.5
    assert float(data.jacobian_distance[2]) == pytest.approx(away, rel=0.03)
    off = 1 - float(turn.diagonal().square().sum()) / width
    assert float(data.jacobian_off_diagonal[2]) == pytest.approx(off, abs=0.05)


def test_behind_a_norm_a_larger_state_is_passed_on_more_exactly() -> None:
    """The curse of depth: with RMSNorm before all, J - I shrinks as the state grows."""

    def write(h: Tensor) -> Tensor:
        return h + 0.001 * h.flip(-1) / h.square().mean(-1, keepdim=True).sqrt()

    model = planted(write, lambda h: 10 * h, write)
    data = ll.block_jacobian(model, IDS).data
    small, _, large = data.jacobian_distance.values
    assert small / large == pytest.approx(10, rel=0.05)
    small, _, large = data.jacobian_distance_chance.values
    assert small / large == pytest.approx(10, rel=0.05)


def test_estimates_have_no_bias() -> None:
    torch.manual_seed(0)
    matrix = torch.randn(8, 8, dtype=torch.float64)
    signs = torch.randint(2, (2, 20_000, 8)).double() * 2 - 1
    found = estimates(signs @ matrix, signs)
    square = float((matrix - torch.eye(8)).square().sum()) / 8
    assert float(found["jacobian_distance"].square().mean()) == pytest.approx(square, rel=0.02)
    assert float(found["jacobian_trace"].mean()) == pytest.approx(
        float(matrix.trace()) / 8, abs=0.02
    )


def test_texts_are_pooled_and_have_an_interval() -> None:
    model = by_hooks.wrapped("llama")
    data = ll.block_jacobian(model, [IDS, [7, 8, 9, 10], [3, 4]]).data
    assert (data.jacobian_distance_low <= data.jacobian_distance).all()
    assert (data.jacobian_distance_high >= data.jacobian_distance).all()
    assert evenly([1, 2, 3, 4, 5, 6], 2) == [2, 5] and evenly([4], 3) == [4]


@pytest.mark.parametrize(
    ("options", "words"), [({"draws": 1}, "at least 2"), ({"per_text": 0}, "at least 1")]
)
def test_options_that_do_not_fit_are_refused(options: dict[str, int], words: str) -> None:
    with pytest.raises(InputError, match=words):
        ll.block_jacobian(by_hooks.wrapped("gpt2"), IDS, **options)
