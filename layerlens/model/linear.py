"""Affine maps: the one at the end of a sublayer, with or without an adapter around it."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor, nn
from transformers.pytorch_utils import Conv1D

from layerlens.model.watch import Call, first_tensor, swapped
from layerlens.model.weights import is_dense

#: How many roundings a map may be off being affine, as a share of what it gives.
AFFINE_ROUNDINGS = 8

#: Inputs of the test are so much larger than the usual: what is not affine shows there.
SPREAD = 8.0


def is_plain(module: nn.Module) -> bool:
    """Whether a module computes ``x @ weight + bias`` with numbers that are in memory."""
    if isinstance(module, nn.Linear):
        own = type(module).forward is nn.Linear.forward
    else:
        own = isinstance(module, Conv1D)
    return own and not list(module.children()) and is_dense(module.weight)


def offset(module: nn.Module, x: Tensor) -> Tensor | None:
    """What an affine module adds to its product: what it gives for zeros shaped like ``x``."""
    if is_plain(module):
        bias: Tensor | None = module.bias  # type: ignore[assignment]
        return bias
    given: Tensor = module(torch.zeros_like(x))
    return given


def find_projection(origin: Call, inner: Sequence[Call]) -> Call | None:
    """Find the affine map whose output a sublayer gives.

    Where a layer is adapted (LoRA) it is the module around the layer and its adapter: the
    outermost one that is affine and was given what the layer in it was given.

    Parameters
    ----------
    origin
        The sublayer, before any norm on its output.
    inner
        All calls in the block.
    """
    within = origin.path + "."
    giving = [
        call
        for call in inner
        if (call.path == origin.path or call.path.startswith(within))
        and call.gave.shape == origin.gave.shape
        and call.took.numel()
        and torch.equal(call.gave, origin.gave)
    ]
    found: Call | None = None
    for call in sorted(giving, key=lambda call: -call.path.count(".")):
        if found is not None and not _same_input(call, found):
            break
        leaf = not list(call.module.children())
        if is_plain(call.module) or (
            (leaf or _holds_layer(call, inner)) and _single(call) and is_affine(call)
        ):
            found = call
    return found


def _same_input(one: Call, two: Call) -> bool:
    return one.took.shape == two.took.shape and torch.equal(one.took, two.took)


def _single(call: Call) -> bool:
    """Whether a module was given one tensor and gave one."""
    return call.alone and isinstance(call.gave_live, Tensor)


def _holds_layer(call: Call, inner: Sequence[Call]) -> bool:
    """Whether a layer in a module took what the module took, and gave as much."""
    return any(
        other.path.startswith(call.path + ".")
        and not list(other.module.children())
        and other.gave.shape == call.gave.shape
        and _same_input(other, call)
        for other in inner
    )


def is_affine(call: Call) -> bool:
    """Whether ``f(a) + f(b) - f(0)`` is ``f(a + b)``, up to roundings of what was given."""
    generator = torch.Generator().manual_seed(0)
    size = SPREAD * call.took.float().std().item()

    def noise() -> Tensor:
        drawn = torch.randn(call.took_live.shape, generator=generator)
        return (drawn * size).to(call.took.device, call.took.dtype)

    a, b = noise(), noise()
    given = [_again(call, x).double() for x in (a, b, torch.zeros_like(a), a + b)]
    off = (given[0] + given[1] - given[2] - given[3]).norm()
    whole = sum((part.norm() for part in given[1:]), given[0].norm())
    # An overflow makes the comparison false.
    return bool(off <= AFFINE_ROUNDINGS * torch.finfo(call.gave.dtype).eps * whole)


def _again(call: Call, x: Tensor) -> Tensor:
    """What the module gives for another input."""
    args, kwargs = swapped(call.args, call.kwargs, call.took_live, x)
    return first_tensor(call.module(*args, **kwargs))
