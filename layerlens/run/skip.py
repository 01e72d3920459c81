"""Leave out layers, or one sublayer of them, at chosen positions."""

from __future__ import annotations

from collections.abc import Iterable
from contextlib import ExitStack
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn

from layerlens.errors import InputError
from layerlens.model.sites import Site
from layerlens.model.watch import first_tensor, stream_argument, with_tensor
from layerlens.run.changes import Change
from layerlens.run.gate import Gate
from layerlens.run.hooks import install, plain_rows, twin

if TYPE_CHECKING:
    from layerlens.model.lensmodel import LensModel

PARTS = ("block", "attn", "mlp")
"""What can be left out of a layer: all of it, what its attention adds, what its MLP adds."""


def require_part(model: LensModel, part: str, layers: Iterable[int] | None = None) -> None:
    """Raise an error where a part is unknown (InputError) or a layer has none (SiteError)."""
    if part not in PARTS:
        raise InputError(f"part is {part!r}; expected one of {', '.join(PARTS)}.")
    if part != "block":
        for layer in range(model.n_layers) if layers is None else layers:
            model.anatomy.tap(Site(f"{part}_out", layer))


def mute(
    model: LensModel,
    layer: int,
    part: str,
    positions: tuple[int, ...],
    batch: int,
    stack: ExitStack,
) -> None:
    """Let a sublayer (``attn`` or ``mlp``) add nothing, until the stack closes.

    Parameters
    ----------
    batch
        Rows of the calls, ``[batch, position, d_model]``.
    """
    change = Change(Site(f"{part}_out", layer), "set", 0.0, positions)
    install(model, [change], plain_rows, Gate(), stack, batch=batch)


def skip_hooks(
    model: LensModel,
    layers: Iterable[int],
    part: str,
    positions: tuple[int, ...],
    stack: ExitStack,
) -> None:
    """Leave out layers in passes of the whole model over one text, until the stack closes."""
    for layer in layers:
        if part == "block":
            module = model.hf.get_submodule(model.anatomy.blocks[layer].path)
            _bypass(module, torch.tensor(positions, dtype=torch.long), stack)
        else:
            mute(model, layer, part, positions, 1, stack)


def _bypass(module: nn.Module, positions: Tensor, stack: ExitStack) -> None:
    """Let a block give what it was given, at some positions of one text."""
    given: list[Tensor] = []
    gate = Gate()

    def entering(_: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
        if gate.open:
            given[:] = [stream_argument(args, kwargs).clone()]

    def leaving(_: nn.Module, args: tuple[Any, ...], output: Any) -> Any:
        if not gate.open:
            return None
        old = first_tensor(output)
        new, before = twin(old), given[0].to(old.device)
        new.view(-1, new.shape[-1])[positions] = before.view(-1, new.shape[-1])[positions]
        return with_tensor(output, old, new)

    stack.callback(module.register_forward_pre_hook(entering, with_kwargs=True).remove)
    stack.callback(module.register_forward_hook(leaving).remove)
