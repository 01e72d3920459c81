"""Run a model's own blocks again, in any order, from any stored state."""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from torch import Tensor, nn

from layerlens.model.text import Tokens
from layerlens.model.watch import first_tensor, stream_argument
from layerlens.run.forward import model_inputs

if TYPE_CHECKING:
    from layerlens.model.lensmodel import LensModel


@dataclass
class BlockCall:
    """How the model itself called a block: everything but the residual stream is kept."""

    block: nn.Module
    args: tuple[Any, ...]
    kwargs: dict[str, Any]
    stream: Tensor

    def __call__(self, resid: Tensor) -> Tensor:
        """Run the block on another state ``[batch, position, d_model]``."""

        def swap(value: Any) -> Any:
            return resid if value is self.stream else value

        args = [swap(value) for value in self.args]
        kwargs = {name: swap(value) for name, value in self.kwargs.items()}
        return first_tensor(self.block(*args, **kwargs))


def capture_calls(model: LensModel, tokens: Tokens) -> tuple[list[BlockCall], Tensor | None]:
    """Run one pass and keep how each block was called.

    Returns
    -------
    calls
        One a block, in order; ``calls[0].stream`` is the state before block 0.
    logits
        The model's own, ``[batch, position, vocabulary]``, or None without a head.
    """
    calls: list[BlockCall] = []

    def entering(module: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
        calls.append(BlockCall(module, args, kwargs, stream_argument(args, kwargs)))

    with model.running(), ExitStack() as stack:
        for block in model.anatomy.blocks:
            module = model.hf.get_submodule(block.path)
            handle = module.register_forward_pre_hook(entering, with_kwargs=True)
            stack.callback(handle.remove)
        output = model.hf(**model_inputs(model, tokens, "all"))
    return calls, getattr(output, "logits", None)


def replay(
    model: LensModel,
    calls: Sequence[BlockCall],
    resid: Tensor,
    order: Sequence[int] | None = None,
) -> Tensor:
    """Run blocks from a state ``[batch, position, d_model]``; returns the state after them.

    Parameters
    ----------
    calls
        From :func:`capture_calls` on the same tokens.
    order
        Numbers of the blocks to run, in this order; None for all in theirs.
    """
    with model.running():
        for layer in range(len(calls)) if order is None else order:
            resid = calls[layer](resid)
    return resid
