"""Run a model's own blocks again, in any order, from any stored state."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Literal

import torch
from torch import Tensor, nn

from layerlens.model.sites import Site
from layerlens.model.text import Tokens
from layerlens.model.watch import first_tensor, stream_argument
from layerlens.run.forward import run_model
from layerlens.run.gate import Gate

if TYPE_CHECKING:
    from layerlens.model.lensmodel import LensModel

OnState = Callable[[int, Tensor], None]
"""Called with a layer and the state before its block; once more at the end, with the number of
layers and the state after the last one. The state may be kept."""


class _Stream:
    """Stands for the residual stream among the arguments of a block."""


STREAM = _Stream()


@dataclass(frozen=True, eq=False)
class BlockCall:
    """How the model itself called a block: everything but the residual stream is kept.

    Attributes
    ----------
    block
        The model's own module.
    args, kwargs
        As the model gave them, with :data:`STREAM` in place of the residual stream.
    folded
        The block takes ``[batch * position, d_model]``.
    writes
        The block writes into the state it is given, so it is given a copy.
    """

    block: nn.Module
    args: tuple[Any, ...]
    kwargs: dict[str, Any]
    folded: bool = False
    writes: bool = False

    def __call__(self, resid: Tensor) -> Tensor:
        """Run the block on another state ``[batch, position, d_model]``."""
        given = resid.flatten(0, 1) if self.folded else resid
        if self.writes:
            given = given.clone()
        args = [given if value is STREAM else value for value in self.args]
        kwargs = {n: given if value is STREAM else value for n, value in self.kwargs.items()}
        return first_tensor(self.block(*args, **kwargs)).reshape(resid.shape)


def capture_calls(
    model: LensModel,
    tokens: Tokens,
    on_state: OnState | None = None,
    *,
    logits: Literal["all", "last"] | None = "all",
    for_autograd: bool = False,
) -> tuple[list[BlockCall], Tensor | None]:
    """Run one pass and keep how each block was called.

    Parameters
    ----------
    on_state
        Is handed each state of the residual stream, ``[batch, position, d_model]``, while the
        model runs; an exception raised in it ends the pass.
    logits
        ``"all"`` positions, the ``"last"`` one (where the model can do that), or None, which ends
        the pass before the head.
    for_autograd
        Blocks will be called with gradients recorded, so what they are given is kept as plain
        tensors, which take more time to make. The pass itself records nothing.

    Returns
    -------
    calls
        One a block, in order.
    logits
        The model's own, ``[batch, position, vocabulary]``, or None without a head.
    """
    gate = Gate()

    def hand_over(layer: int, state: Tensor, volatile: bool) -> None:
        if on_state is not None:
            with gate.closed():
                state = state.clone() if volatile else state
                on_state(layer, state.reshape(*tokens.ids.shape, -1))

    def leaving(module: nn.Module, args: tuple[Any, ...], output: Any) -> None:
        if gate.open:
            hand_over(model.n_layers, first_tensor(output), True)

    with (
        model.running(gradients=for_autograd),
        torch.set_grad_enabled(False),
        ExitStack() as stack,
    ):
        if for_autograd:  # what was made in inference mode cannot be kept for a backward pass
            tokens = tokens.plain
        calls = watch_calls(model, gate, stack, hand_over)
        last = model.hf.get_submodule(model.anatomy.blocks[-1].path)
        stack.callback(last.register_forward_hook(leaving).remove)
        given = run_model(model, tokens, logits, gate, stack)
    return calls, given


def watch_calls(
    model: LensModel,
    gate: Gate,
    stack: ExitStack,
    on_state: Callable[[int, Tensor, bool], None] = lambda layer, state, volatile: None,
) -> list[BlockCall]:
    """Keep how each block is called until the stack closes; the list fills while a model runs.

    Parameters
    ----------
    on_state
        Called with a layer, the state before its block as it passes, and whether the model
        writes into that state later.
    """
    calls: list[BlockCall] = []

    def entering(module: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
        if gate.open:
            state, writes = stream_argument(args, kwargs), _writes(model, len(calls))
            calls.append(_call(module, args, kwargs, state, writes))
            on_state(len(calls) - 1, state, writes)

    for block in model.anatomy.blocks:
        module = model.hf.get_submodule(block.path)
        stack.callback(module.register_forward_pre_hook(entering, with_kwargs=True).remove)
    return calls


def _writes(model: LensModel, layer: int) -> bool:
    return model.anatomy.tap(Site("resid_pre", layer)).volatile


def _call(
    module: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any], stream: Tensor, writes: bool
) -> BlockCall:
    def without(value: Any) -> Any:
        return STREAM if value is stream else value

    given = {name: without(value) for name, value in kwargs.items()}
    return BlockCall(module, tuple(map(without, args)), given, stream.dim() == 2, writes)


def replay(
    model: LensModel,
    calls: Sequence[BlockCall],
    resid: Tensor,
    order: Sequence[int] | None = None,
    on_state: OnState | None = None,
) -> Tensor:
    """Run blocks from a state ``[batch, position, d_model]``; returns the state after them.

    Parameters
    ----------
    calls
        From :func:`capture_calls` on the same tokens.
    order
        Numbers of the blocks to run, in this order; None for all in theirs.
    on_state
        Called after each step with its number, from 0, and the state after it.
    """
    with model.running():
        for step, layer in enumerate(range(len(calls)) if order is None else order):
            resid = calls[layer](resid)
            if on_state is not None:
                on_state(step, resid)
    return resid
