"""Watch one small pass and keep what every module took and gave, block by block."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn


@dataclass
class Call:
    """One call of one module during the watched pass; tensors are copies."""

    path: str
    module: nn.Module
    took: Tensor | None
    gave: Tensor | None
    took_live: Tensor | None
    gave_live: Tensor | None
    args: tuple
    kwargs: dict[str, Any]
    entered: int
    left: int

    @property
    def written(self) -> bool:
        """Whether the model wrote into this call's output after it was given."""
        return self.gave is not None and not torch.equal(self.gave, _stream(self.gave_live))

    @property
    def took_written(self) -> bool:
        """Whether the model wrote into this call's input after it was taken."""
        return self.took is not None and not torch.equal(self.took, _stream(self.took_live))


def first_tensor(value: Any) -> Tensor | None:
    """The first floating tensor in a value that modules pass around."""
    if isinstance(value, Tensor):
        return value if value.is_floating_point() else None
    if isinstance(value, dict):
        value = value.values()
    elif not isinstance(value, (tuple, list)):
        return None
    for item in value:
        if (found := first_tensor(item)) is not None:
            return found
    return None


def stream_argument(args: tuple, kwargs: dict[str, Any]) -> Tensor | None:
    """The hidden states that a module was called with."""
    for name in ("hidden_states", "x", "input"):
        if isinstance(kwargs.get(name), Tensor):
            return kwargs[name]
    return first_tensor(args) if args else first_tensor(kwargs)


def swapped(
    args: tuple, kwargs: dict[str, Any], old: Tensor | None, new: Tensor
) -> tuple[tuple, dict[str, Any]]:
    """The arguments of a call with one tensor put in another's place."""
    return (
        tuple(new if value is old else value for value in args),
        {name: new if value is old else value for name, value in kwargs.items()},
    )


def _stream(tensor: Tensor | None) -> Tensor | None:
    """As ``[rows, width]``: some families fold batch and position into one axis."""
    return None if tensor is None else tensor.reshape(-1, tensor.shape[-1])


class Watcher:
    """Collects calls; ``take()`` hands over and forgets those seen so far."""

    def __init__(self) -> None:
        self._calls: list[Call] = []
        self._clock = 0
        self._open: dict[int, list[tuple]] = {}

    def take(self) -> list[Call]:
        """The finished calls in the order in which they were entered."""
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

    def _hooks(self, path: str) -> tuple[Callable, Callable]:
        def enter(module: nn.Module, args: tuple, kwargs: dict) -> None:
            self._clock += 1
            live = stream_argument(args, kwargs)
            taken = None if live is None else _stream(live).clone()
            self._open.setdefault(id(module), []).append((self._clock, live, taken))

        def leave(module: nn.Module, args: tuple, kwargs: dict, output: Any) -> None:
            self._clock += 1
            entered, live, taken = self._open[id(module)].pop()
            given = first_tensor(output)
            copied = None if given is None else _stream(given).clone()
            self._calls.append(
                Call(path, module, taken, copied, live, given, args, kwargs, entered, self._clock)
            )

        return enter, leave
