"""Models that run one block again and again (ALBERT): a module of its own for each time."""

from __future__ import annotations

import copy
from collections.abc import Sequence
from itertools import pairwise
from typing import Any, TypeVar

import torch
from torch import nn
from transformers import PreTrainedModel

from layerlens.model.feed import Feed
from layerlens.model.watch import Call, Watcher

Shared = TypeVar("Shared", bound=nn.Module)


class Unrolled(nn.Module):
    """Stands where the model has one block, and runs another copy each time it is called.

    The copies have the same parameters, not equal ones: a change to one is a change to all.

    Parameters
    ----------
    block
        What the model runs several times over.
    times
        How often it does so in a pass.
    """

    def __init__(self, block: nn.Module, times: int) -> None:
        super().__init__()
        self.layers = nn.ModuleList(_sharing(block) for _ in range(times))
        self._next = 0

    def restart(self, module: nn.Module, given: tuple[Any, ...]) -> None:
        """Begin with the first copy again; called before the module that holds the loop runs."""
        self._next = 0

    def forward(self, *args: Any, **kwargs: Any) -> Any:
        """What the copy whose turn it is makes of this."""
        layer = self.layers[self._next]
        self._next += 1
        return layer(*args, **kwargs)


def unrolled(hf: PreTrainedModel, feed: Feed) -> PreTrainedModel | None:
    """A model in which each layer is a module, of one that runs a block again and again.

    The model that was given stays as it is. The one that is returned computes the same with the
    same parameters, so that training one trains both.

    Returns
    -------
    PreTrainedModel or None
        None if no block was seen that is given what it gave itself.
    """
    watcher = Watcher()
    with watcher.on([(name, module) for name, module in hf.named_modules() if name]):
        hf(**feed.call(hf, feed.example(hf)))
    calls: dict[str, list[Call]] = {}
    for call in watcher.take():
        calls.setdefault(call.path, []).append(call)
    looped = [path for path, several in calls.items() if _is_loop(several)]
    if not looped:
        return None
    path = min(looped, key=lambda path: path.count("."))
    apart = _sharing(hf)
    layers = Unrolled(apart.get_submodule(path), len(calls[path]))
    parent, _, name = path.rpartition(".")
    setattr(apart.get_submodule(parent), name, layers)
    while parent and len(calls.get(parent, [])) != 1:  # a list of modules is not called itself
        parent = parent.rpartition(".")[0]
    apart.get_submodule(parent).register_forward_pre_hook(layers.restart)
    return apart


def _is_loop(calls: Sequence[Call]) -> bool:
    """Whether a module with weights was given, each time but the first, what it gave before."""
    return (
        len(calls) > 1
        and any(parameter.dim() > 1 for parameter in calls[0].module.parameters())
        and all(call.took.numel() and call.took.shape == call.gave.shape for call in calls)
        and all(torch.equal(before.gave, after.took) for before, after in pairwise(calls))
    )


def _sharing(module: Shared) -> Shared:
    """A copy of the modules with the very same parameters and buffers."""
    shared = {id(tensor): tensor for tensor in (*module.parameters(), *module.buffers())}
    return copy.deepcopy(module, shared)
