"""Affine maps: the one at the end of a sublayer, with or without an adapter around it."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import torch
from torch import Tensor, nn
from transformers.pytorch_utils import Conv1D

from layerlens.model.watch import Call, first_tensor, swapped
from layerlens.model.weights import is_dense

#: How many roundings a map may be off being affine, as a share of what it gives.
AFFINE_ROUNDINGS = 8

#: Inputs of the test are so much larger than the usual: what is not affine shows there.
SPREAD = 8.0


def is_layer(module: nn.Module) -> bool:
    """Whether a module computes ``x @ weight + bias``, wherever its numbers are."""
    own = isinstance(module, Conv1D)
    if isinstance(module, nn.Linear):
        own = type(module).forward is nn.Linear.forward
    return own and not list(module.children()) and isinstance(module.weight, Tensor)


def is_plain(module: nn.Module) -> bool:
    """Whether a module computes ``x @ weight + bias`` with numbers that are in memory."""
    return is_layer(module) and is_dense(module.weight)  # type: ignore[arg-type]


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
    outermost one that is affine.

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
        if is_plain(call.module) or (
            _works_alone(call) and _shaped_like_a_layer(call, inner) and is_affine(call)
        ):
            found = call
    return found


def _works_alone(call: Call) -> bool:
    """Whether a module was given one tensor only and made another of it (no dropout)."""
    same = call.took.shape == call.gave.shape and torch.equal(call.took, call.gave)
    return call.alone and isinstance(call.gave_live, Tensor) and not same


def _shaped_like_a_layer(call: Call, inner: Sequence[Call]) -> bool:
    """Whether a module is a layer, or took and gave as much as a layer in it."""
    leaves = [other for other in inner if not list(other.module.children())]
    return any(
        (other is call or other.path.startswith(call.path + "."))
        and other.gave.shape == call.gave.shape
        and other.took.shape == call.took.shape
        for other in leaves
    )


def is_affine(call: Call) -> bool:
    """Whether a module that was called is affine in what it was given, up to roundings."""
    size = SPREAD * call.took.float().std().item()
    return adds_up(lambda x: _again(call, x), call.took_live, size)


def adds_up(function: Callable[[Tensor], Tensor], like: Tensor, size: float = SPREAD) -> bool:
    """Whether ``f(a) + f(b) - f(0)`` is ``f(a + b)`` for random inputs, up to roundings.

    Parameters
    ----------
    like
        Its shape, dtype and device are those of the inputs.
    size
        Standard deviation of the inputs.
    """
    generator = torch.Generator().manual_seed(0)
    a, b = (
        (torch.randn(like.shape, generator=generator) * size).to(like.device, like.dtype)
        for _ in range(2)
    )
    results = [function(x) for x in (a, b, torch.zeros_like(a), a + b)]
    # A bias of minus infinity (a token that is never written) says nothing about the rest.
    given = [result.double().where(results[2].isfinite(), 0.0) for result in results]
    off = (given[0] + given[1] - given[2] - given[3]).norm()
    whole = sum((part.norm() for part in given[1:]), given[0].norm())
    # An overflow makes the comparison false.
    return bool(off <= AFFINE_ROUNDINGS * torch.finfo(results[0].dtype).eps * whole)


def _again(call: Call, x: Tensor) -> Tensor:
    """What the module gives for another input."""
    args, kwargs = swapped(call.args, call.kwargs, call.took_live, x)
    return first_tensor(call.module(*args, **kwargs))
