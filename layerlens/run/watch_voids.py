"""Find, while a model runs or writes, the layers that add too little; act on it or not."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import ExitStack
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Protocol, Self

import torch
from torch import Tensor, nn

from layerlens.model.sites import Site
from layerlens.model.watch import first_tensor, stream_argument, with_tensor
from layerlens.run.gate import Gate

if TYPE_CHECKING:
    from layerlens.model.lensmodel import LensModel

VARIANTS = ("reference", "true_skip", "none")


class Rule(Protocol):
    """Decides layer after layer."""

    threshold: Tensor

    def __call__(self, gain: Tensor) -> Tensor:
        """Whether the next layer is void, ``[n]`` bool, given its gains ``[n]``."""


@dataclass(frozen=True, eq=False)
class Seen:
    """What was decided for the tokens of one call of the model.

    Attributes
    ----------
    gain, threshold
        [layer, n] float64 on the CPU: what each layer adds to the norm, and what it had to.
    void
        [layer, n] bool.
    """

    gain: Tensor
    threshold: Tensor
    void: Tensor


class VoidWatch:
    """Hooks on every block that decide, token by token, which layers are void.

    Parameters
    ----------
    rule
        Makes the rule that decides, anew for every call of the model.
    variant
        ``none``: nothing is changed. ``reference``: all layers run, and what leaves the last
        block is, for each token, the output of its last active layer (as published).
        ``true_skip``: a void layer gives what it was given, so that later layers never see what
        it added.
    on_call
        Called after the last block of each call of the model.

    Notes
    -----
    Use it in a ``with`` block, for calls of one text on this thread, and hold the model's lock.
    """

    def __init__(
        self,
        model: LensModel,
        rule: Callable[[], Rule],
        variant: str,
        on_call: Callable[[Seen], None],
    ) -> None:
        self._model = model
        self._new_rule = rule
        self._variant = variant
        self._on_call = on_call
        self._stack = ExitStack()
        self._gate = Gate()

    def __enter__(self) -> Self:
        for layer, block in enumerate(self._model.anatomy.blocks):
            module = self._model.hf.get_submodule(block.path)
            entering, leaving = self._hooks(layer)
            self._stack.callback(
                module.register_forward_pre_hook(entering, with_kwargs=True).remove
            )
            self._stack.callback(module.register_forward_hook(leaving).remove)
        return self

    def __exit__(self, *error: object) -> None:
        self._stack.close()

    def _hooks(self, layer: int) -> tuple[Callable[..., None], Callable[..., Any]]:
        volatile = self._model.anatomy.tap(Site("resid_pre", layer)).volatile

        def entering(_: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
            if self._gate.open:
                state = stream_argument(args, kwargs)
                self._before = state.clone() if volatile else state
                if layer == 0:
                    self._start(self._before)

        def leaving(_: nn.Module, args: tuple[Any, ...], output: Any) -> Any:
            if not self._gate.open:
                return None
            old = first_tensor(output)
            new = self._decide(layer, old)
            return None if new is None else with_tensor(output, old, new)

        return entering, leaving

    def _start(self, state: Tensor) -> None:
        """Begin with the state before the first layer."""
        self._rule = self._new_rule()
        self._norm = _norms(state)
        self._active = state  # of each token, the output of its last active layer
        self._seen: list[tuple[Tensor, Tensor, Tensor]] = []

    def _decide(self, layer: int, after: Tensor) -> Tensor | None:
        """What goes on in place of a block's output; None for the output itself."""
        norm = _norms(after)
        gain = norm - self._norm
        void = self._rule(gain)
        self._seen.append((gain, self._rule.threshold, void))
        where = void.to(after.device).view(*after.shape[:-1], 1)
        result: Tensor | None = None
        if self._variant == "true_skip":
            result = torch.where(where, self._before.to(after.device), after)
            norm = torch.where(void, self._norm, norm)
        self._norm = norm
        last = layer == self._model.n_layers - 1
        if self._variant == "reference":
            # A copy, so a block that writes into its input does not change what is kept.
            self._active = torch.where(where, self._active.to(after.device), after)
            result = self._active if last else None
        if last:
            with self._gate.closed():
                self._on_call(Seen(*map(torch.stack, zip(*self._seen, strict=True))))
        return result


def _norms(state: Tensor) -> Tensor:
    """Norms of the states ``[..., d_model]``: [n] float64 on the CPU."""
    rows = state.reshape(-1, state.shape[-1]).cpu()
    norms: Tensor = rows.double().norm(dim=-1)
    return norms
