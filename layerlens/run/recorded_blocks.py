"""One pass whose blocks record what they do for autograd, each cut off from those before it."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import ExitStack
from typing import TYPE_CHECKING, Any, NamedTuple

import torch
from torch import Tensor, nn

from layerlens.model.sites import Site
from layerlens.model.watch import first_tensor, stream_argument
from layerlens.run.forward import run_model
from layerlens.run.gate import Gate

if TYPE_CHECKING:
    from layerlens.model.lensmodel import LensModel
    from layerlens.model.text import Tokens


class RecordedBlock(NamedTuple):
    """What one block was given and made of it.

    Parameters
    ----------
    before
        ``[batch, position, d_model]``, a leaf.
    after
        Of the same shape, with the graph from the leaf to it.
    """

    before: Tensor
    after: Tensor


def record_blocks(
    model: LensModel, tokens: Tokens, on_state: Callable[[Tensor], None]
) -> list[RecordedBlock]:
    """Run one pass up to the head, with gradients recorded inside each block alone.

    A gradient by what a block gave goes back through it without running it again; the graphs of
    all blocks are in memory until then. Nothing between blocks, and nothing of the embedding, is
    recorded. Call it while the model runs with gradients.

    Parameters
    ----------
    on_state
        Called with the state before each block, and the one after the last; may raise to stop.
    """
    gate, leaves = Gate(), list[Tensor]()
    found: list[RecordedBlock] = []
    shape = tokens.ids.shape

    def entering(module: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
        if not gate.open:
            return None
        state = stream_argument(args, kwargs)
        on_state(state.reshape(*shape, -1).clone())
        leaf = state.detach().clone().reshape(*shape, -1).requires_grad_()
        torch.set_grad_enabled(True)
        given = leaf.view(state.shape)
        if model.anatomy.tap(Site("resid_pre", len(leaves))).volatile:
            given = given.clone()
        leaves.append(leaf)
        return (
            tuple(given if value is state else value for value in args),
            {name: given if value is state else value for name, value in kwargs.items()},
        )

    def leaving(module: nn.Module, args: tuple[Any, ...], output: Any) -> Any:
        if not gate.open:
            return None
        after = first_tensor(output)
        found.append(RecordedBlock(leaves[-1], after.reshape(*shape, -1)))
        torch.set_grad_enabled(False)
        cut = after.detach()
        if len(found) == model.n_layers:
            on_state(cut.reshape(*shape, -1).clone())
        return (cut, *output[1:]) if isinstance(output, tuple) else cut

    with torch.set_grad_enabled(False), ExitStack() as stack:
        tokens = tokens.plain
        for block in model.anatomy.blocks:
            module = model.hf.get_submodule(block.path)
            stack.callback(module.register_forward_pre_hook(entering, with_kwargs=True).remove)
            stack.callback(module.register_forward_hook(leaving).remove)
        run_model(model, tokens, None, gate, stack)
    return found
