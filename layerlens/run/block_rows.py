"""The blocks of a model, called on many variants of one text, or of some texts, at once."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from layerlens.model.text import Tokens
from layerlens.run.replay import STREAM, BlockCall, OnState, capture_calls

if TYPE_CHECKING:
    from layerlens.model.lensmodel import LensModel

#: Tokens that go through a block at once: beyond some hundreds nothing is gained, and the
#: hidden units of an MLP need memory.
TOKENS_AT_ONCE = 1024


class RowCalls:
    """Runs any block on states ``[row, position, d_model]`` of a text, for any number of rows.

    Of several texts, the rows are these texts again and again, in their order. What a block is
    given besides the stream (masks, rotary tables) may have an axis of texts. It is found by
    comparing a pass of the texts with one of the texts twice; where the comparison is not clear,
    each copy of them is run by itself.

    Parameters
    ----------
    tokens
        What the rows are variants of.
    on_state
        Is handed the states of the plain pass, see :func:`capture_calls`.
    for_autograd
        Blocks will be called with gradients recorded.

    Attributes
    ----------
    calls
        How each block was called on the texts alone.
    texts
        Rows of one copy.
    at_once
        How many rows go through a block in one call; one copy of the texts where many cannot.
    """

    def __init__(
        self,
        model: LensModel,
        tokens: Tokens,
        on_state: OnState | None = None,
        *,
        for_autograd: bool = False,
    ) -> None:
        self.calls, _ = capture_calls(
            model, tokens, on_state, logits="last", for_autograd=for_autograd
        )
        twice = tokens.repeated(2)
        doubled, _ = capture_calls(model, twice, logits="last", for_autograd=for_autograd)
        self._wide = [_widen(*pair) for pair in zip(self.calls, doubled, strict=True)]
        wide = all(wide is not None for wide in self._wide)
        self.texts = len(tokens.ids)
        self.at_once = self.texts * (max(1, TOKENS_AT_ONCE // tokens.ids.numel()) if wide else 1)

    def __call__(self, layer: int, resid: Tensor) -> Tensor:
        """The states after a block, ``[row, position, d_model]``."""
        parts = [self._call(layer, part) for part in resid.split(self.at_once)]
        return torch.cat(parts) if len(parts) > 1 else parts[0]

    def _call(self, layer: int, resid: Tensor) -> Tensor:
        wide = self._wide[layer]
        if len(resid) == self.texts or wide is None:
            return self.calls[layer](resid)
        return wide(len(resid) // self.texts)(resid)


def _widen(one: BlockCall, two: BlockCall) -> Callable[[int], BlockCall] | None:
    """Return what makes the call for any number of copies; None where it is not clear."""
    arguments = _grow((one.args, one.kwargs), (two.args, two.kwargs))
    if arguments is None:
        return None

    def call(copies: int) -> BlockCall:
        args, kwargs = arguments(copies)
        return replace(one, args=args, kwargs=kwargs)

    return call


def _grow(one: Any, two: Any) -> Callable[[int], Any] | None:
    """How a value grows with the copies, from what it is for one and for two."""
    if isinstance(one, Tensor):
        return _grow_tensor(one, two) if isinstance(two, Tensor) else None
    if type(one) is tuple or type(one) is list:
        if type(two) is not type(one) or len(one) != len(two):
            return None
        kind = type(one)
        parts = [_grow(*pair) for pair in zip(one, two, strict=True)]
        if any(part is None for part in parts):
            return None
        return lambda copies: kind(part(copies) for part in parts if part is not None)
    if type(one) is dict:
        if type(two) is not dict or one.keys() != two.keys():
            return None
        values = _grow(list(one.values()), [two[key] for key in one])
        return (
            None if values is None else lambda copies: dict(zip(one, values(copies), strict=True))
        )
    plain = one is STREAM or one is None or isinstance(one, bool | int | float | str)
    return (lambda copies: one) if plain and one == two else None


def _grow_tensor(one: Tensor, two: Tensor) -> Callable[[int], Tensor] | None:
    if one.shape == two.shape and torch.equal(one, two):
        return lambda copies: one
    if not one.dim() or two.shape != (2 * len(one), *one.shape[1:]):
        return None
    rest = [1] * (one.dim() - 1)
    if not torch.equal(one.repeat(2, *rest), two):
        return None
    if len(one) == 1:
        return lambda copies: one.expand(copies, *one.shape[1:])
    return lambda copies: one.repeat(copies, *rest)
