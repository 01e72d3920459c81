"""Weights that accelerate keeps elsewhere: read one by one, held a while, brought for gradients."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn


def offload_hooks(module: nn.Module) -> list[Any]:
    """The hooks of accelerate that bring a module's weights when it runs, and take them away."""
    return [hook for hook in _hooks(getattr(module, "_hf_hook", None)) if hook.offload]


def _hooks(hook: Any) -> Iterator[Any]:
    if hasattr(hook, "hooks"):  # several in a row
        for each in hook.hooks:
            yield from _hooks(each)
    elif hasattr(hook, "offload") and hasattr(hook, "place_submodules"):
        yield hook


def brought(hf: nn.Module, path: str) -> Tensor:
    """A parameter with its numbers, read from where they are kept if they are not in memory.

    Parameters
    ----------
    path
        Of the parameter in the model.

    Returns
    -------
    Tensor
        The model's own where it is in memory, or is kept nowhere (then it is on ``meta``). Else
        what its module would compute with; from a disk to the CPU that is a map of the file.
    """
    parameter: Tensor = hf.get_parameter(path)
    if not parameter.is_meta:
        return parameter
    names = path.split(".")
    for depth in reversed(range(len(names))):
        own = depth == len(names) - 1
        for hook in offload_hooks(hf.get_submodule(".".join(names[:depth]))):
            if own or hook.place_submodules:
                # One that is made in inference mode could not be used where gradients are known.
                with torch.inference_mode(False):
                    kept: Tensor = hook.weights_map[".".join(names[depth:])]
                    return kept.to(hook.execution_device, parameter.dtype)
    return parameter


@contextmanager
def present(module: nn.Module) -> Iterator[None]:
    """Have the weights of a module, and of all in it, in place throughout a ``with`` block.

    Nothing is done for those that are in memory anyway.
    """
    with ExitStack() as stack:
        for part in module.modules():
            for hook in offload_hooks(part):
                with torch.inference_mode(False), torch.no_grad():
                    hook.pre_forward(part)
                hook.offload = False  # so that a pass does not take them away
                stack.callback(_take_away, part, hook)
        yield


def _take_away(part: nn.Module, hook: Any) -> None:
    hook.offload = True
    with torch.inference_mode(False), torch.no_grad():
        hook.post_forward(part, None)


@contextmanager
def brought_for_gradients(hf: nn.Module) -> Iterator[None]:
    """Let what is recorded for autograd remember offloaded weights by name, and not hold them.

    A graph keeps every weight that its backward pass will need, so that a model larger than the
    memory would be in memory after a pass. Here the weight is read again when its turn comes.
    Gradients with respect to the weights themselves are only known of those that are `present`.
    """
    parts = [part for part in hf.modules() if offload_hooks(part)]
    if not parts or any(isinstance(each, _Noted) for each in _in_row(parts[0])):
        yield
        return
    from accelerate.hooks import SequentialHook

    placed: dict[tuple[torch.device, int], str] = {}
    paths = {part: path for path, part in hf.named_modules()}
    with ExitStack() as stack:
        stack.enter_context(_frozen(parts))
        for part in parts:
            own: Any = part._hf_hook
            stack.callback(setattr, part, "_hf_hook", own)
            noted: Any = SequentialHook(own, _Noted(paths[part], offload_hooks(part), placed))
            part._hf_hook = noted

        def pack(saved: Tensor) -> Any:
            path = placed.get(_place(saved))
            if path is None:
                return saved
            return _Kept(path, saved.shape, saved.stride(), int(saved.storage_offset()))

        def unpack(packed: Any) -> Tensor:
            if not isinstance(packed, _Kept):
                found: Tensor = packed
                return found
            whole = brought(hf, packed.path).detach().contiguous()
            return whole.as_strided(
                packed.shape, packed.stride, whole.storage_offset() + packed.offset
            )

        stack.enter_context(torch.autograd.graph.saved_tensors_hooks(pack, unpack))
        yield


@contextmanager
def _frozen(parts: list[nn.Module]) -> Iterator[None]:
    """Let offloaded weights ask for no gradient: a graph would hold on to each that does."""
    asking = [
        (part, name)
        for part in parts
        for hook in offload_hooks(part)
        for name, weight in part.named_parameters(recurse=hook.place_submodules)
        if weight.requires_grad
    ]
    _ask(asking, gradient=False)
    try:
        yield
    finally:
        _ask(asking, gradient=True)


def _ask(weights: list[tuple[nn.Module, str]], *, gradient: bool) -> None:
    # accelerate makes another object of each when a module has run, perhaps in inference mode,
    # outside of which that one could not be changed.
    with torch.inference_mode():
        for part, name in weights:
            part.get_parameter(name).requires_grad_(gradient)


class _Noted:
    """Comes after the hooks of a module; notes where the weights lie that they have placed."""

    def __init__(
        self, path: str, hooks: list[Any], placed: dict[tuple[torch.device, int], str]
    ) -> None:
        self._prefix = f"{path}." if path else ""
        self._hooks, self._placed = hooks, placed
        self._own: list[tuple[torch.device, int]] = []

    def pre_forward(self, part: nn.Module, *args: Any, **kwargs: Any) -> tuple[Any, Any]:
        for hook in self._hooks:
            # Those that are present throughout are not to be read again.
            if hook.offload:
                for name, weight in part.named_parameters(recurse=hook.place_submodules):
                    self._own.append(_place(weight))
                    self._placed[self._own[-1]] = self._prefix + name
        return args, kwargs

    def post_forward(self, part: nn.Module, output: Any) -> Any:
        # Other numbers will lie there.
        for place in self._own:
            self._placed.pop(place, None)
        self._own.clear()
        return output


class _Kept(NamedTuple):
    """How a saved tensor lies in the memory of a weight."""

    path: str
    shape: torch.Size
    stride: tuple[int, ...]
    offset: int


def _place(tensor: Tensor) -> tuple[torch.device, int]:
    return tensor.device, tensor.untyped_storage().data_ptr()


def _in_row(part: nn.Module) -> list[Any]:
    return list(getattr(part._hf_hook, "hooks", ()))
