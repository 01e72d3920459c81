"""Watch one small pass and keep what every module took and gave, block by block."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from layerlens.model.conventions import STREAM


@dataclass(eq=False)
class Call:
    """One call of one module during the watched pass.

    ``took`` and ``gave`` are copies, ``[rows, width]``; empty where there was no tensor.
    """

    path: str
    module: nn.Module
    took: Tensor
    gave: Tensor
    took_live: Tensor
    gave_live: Tensor
    args: tuple[Any, ...]
    kwargs: dict[str, Any]
    entered: int
    left: int

    @property
    def alone(self) -> bool:
        """Whether the module was given one thing only."""
        return sum(value is not None for value in (*self.args, *self.kwargs.values())) == 1

    @property
    def written(self) -> bool:
        """Whether the model wrote into this call's output after it was given."""
        return not torch.equal(self.gave, _stream(self.gave_live))

    @property
    def took_written(self) -> bool:
        """Whether the model wrote into this call's input after it was taken."""
        return not torch.equal(self.took, _stream(self.took_live))


def first_tensor(value: Any) -> Tensor:
    """Return the first floating tensor in what modules pass around, an empty one if none."""
    return next(_tensors(value), torch.empty(0))


def _tensors(value: Any) -> Iterator[Tensor]:
    if isinstance(value, Tensor):
        if value.is_floating_point():
            yield value
    elif isinstance(value, (dict, tuple, list)):
        for item in value.values() if isinstance(value, dict) else value:
            yield from _tensors(item)


def stream_argument(args: tuple[Any, ...], kwargs: dict[str, Any]) -> Tensor:
    """Return the hidden states that a module was called with, an empty tensor if none."""
    for name in STREAM:
        value = kwargs.get(name)
        if isinstance(value, Tensor):
            return value
    return first_tensor(args) if args else first_tensor(kwargs)


def swapped(
    args: tuple[Any, ...], kwargs: dict[str, Any], old: Tensor, new: Tensor
) -> tuple[tuple[Any, ...], dict[str, Any]]:
    """Put one tensor in another's place among the arguments of a call."""
    return (
        tuple(new if value is old else value for value in args),
        {name: new if value is old else value for name, value in kwargs.items()},
    )


def with_tensor(output: Any, old: Tensor, new: Tensor) -> Any:
    """Put one tensor in another's place in what a module gave."""
    if output is old:
        return new
    if isinstance(output, dict):
        changed = {key: new if value is old else value for key, value in output.items()}
        return type(output)(**changed) if type(output) is not dict else changed
    return type(output)(new if value is old else value for value in output)


def _stream(tensor: Tensor) -> Tensor:
    """Reshape to ``[rows, width]``: some families fold batch and position into one axis."""
    return tensor.reshape(-1, tensor.shape[-1]) if tensor.numel() else tensor


class Watcher:
    """Collects calls; ``take()`` hands over and forgets those seen so far."""

    def __init__(self) -> None:
        self._calls: list[Call] = []
        self._clock = 0
        self._open: dict[int, list[tuple[int, Tensor, Tensor]]] = {}

    def take(self) -> list[Call]:
        """Hand over the finished calls in the order in which they were entered."""
        calls, self._calls = self._calls, []
        return sorted(calls, key=lambda call: call.entered)

    @contextmanager
    def on(self, modules: list[tuple[str, nn.Module]]) -> Iterator[None]:
        """Watch these modules while the context lasts."""
        handles = []
        try:
            for path, module in modules:
                enter, leave = self._hooks(path)
                handles.append(module.register_forward_pre_hook(enter, with_kwargs=True))
                handles.append(module.register_forward_hook(leave, with_kwargs=True))
            yield
        finally:
            for handle in handles:
                handle.remove()

    def _hooks(self, path: str) -> tuple[Callable[..., None], Callable[..., None]]:
        def enter(module: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
            self._clock += 1
            live = stream_argument(args, kwargs)
            opened = (self._clock, live, _stream(live).clone())
            self._open.setdefault(id(module), []).append(opened)

        def leave(
            module: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any], output: Any
        ) -> None:
            self._clock += 1
            entered, live, taken = self._open[id(module)].pop()
            given = first_tensor(output)
            copied = _stream(given).clone()
            self._calls.append(
                Call(path, module, taken, copied, live, given, args, kwargs, entered, self._clock)
            )

        return enter, leave
