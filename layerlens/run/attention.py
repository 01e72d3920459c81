"""See and change q, k, v, scores and pattern inside a block's attention, while it runs.

Families that use transformers' attention interface get, for the watched layers only, a
configuration that names our registered function. That function hands over what it was
given and then calls the implementation that the model would have called, so recording
never changes a number; what is changed on the way is changed for that call alone. Families
with attention code of their own are watched by :mod:`layerlens.run.spy`.
"""

from __future__ import annotations

import copy
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any, Protocol

import torch
from torch import Tensor, nn
from transformers import AttentionInterface

from layerlens.errors import SiteError
from layerlens.model.conventions import (
    Attention,
    attention_function,
    attention_of,
    choose_attention,
)

#: The kinds of sites that live inside an attention module.
INSIDE = frozenset({"q", "k", "v", "attn_scores", "pattern"})

_NAME = "layerlens"
_watching = threading.local()


Alter = Callable[[str, Tensor], Tensor]
"""Called with a kind and its tensor; gives the tensor to go on with."""


class Handler(Protocol):
    """What stands between a mixer and its attention function."""

    def attend(
        self,
        original: Attention,
        module: nn.Module,
        query: Tensor,
        key: Tensor,
        value: Tensor,
        mask: Tensor | None,
        *args: Any,
        **kwargs: Any,
    ) -> tuple[Tensor, Tensor | None]:
        """Do what ``original`` does, or something else in its place."""


class Watch:
    """What to hand over from one attention call, and what to change in it.

    Parameters
    ----------
    wanted
        Which of :data:`INSIDE` are asked for; ``out`` for pattern times v.
    see
        Called with the kind and its tensor: ``q``, ``k``, ``v`` as ``[batch, position,
        head, width]`` (``k`` and ``v`` with key-value heads), ``attn_scores`` (-inf where
        masked) and ``pattern`` as ``[batch, head, query, key]``; ``out`` like ``q``.
    changed
        Which of :data:`INSIDE` are changed.
    change
        Called with such a kind and its tensor, shaped as for ``see``.
    """

    def __init__(
        self,
        wanted: frozenset[str],
        see: Callable[[str, Tensor], None],
        changed: frozenset[str] = frozenset(),
        change: Alter | None = None,
    ) -> None:
        self.wanted = wanted
        self.see = see
        self.changed = changed
        self._change = change

    def altered(self, kind: str, tensor: Tensor) -> Tensor:
        """The tensor to go on with, shaped as for ``see``."""
        if self._change is None or kind not in self.changed:
            return tensor
        return self._change(kind, tensor)

    def vectors(self, q: Tensor, k: Tensor, v: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Change and hand over q, k, v, each ``[batch, head, position, width]``."""
        q, k, v = (self.vector(kind, tensor) for kind, tensor in zip("qkv", (q, k, v), strict=True))
        return q, k, v

    def vector(self, kind: str, tensor: Tensor) -> Tensor:
        """Change and hand over one of q, k, v, ``[batch, head, position, width]``."""
        if kind in self.changed:
            tensor = self.altered(kind, tensor.transpose(1, 2)).transpose(1, 2)
        if kind in self.wanted:
            self.see(kind, tensor.transpose(1, 2))
        return tensor

    def hand_over_weights(self, scores: Tensor, pattern: Tensor) -> None:
        """Hand over those of scores and pattern asked for."""
        if "attn_scores" in self.wanted:
            masked = scores <= torch.finfo(scores.dtype).min / 2
            self.see("attn_scores", scores.masked_fill(masked, float("-inf")))
        if "pattern" in self.wanted:
            self.see("pattern", pattern)

    def hand_over_output(self, output: Tensor) -> None:
        """Hand over ``[batch, head, position, width]``, the heads' outputs, if asked for."""
        if "out" in self.wanted:
            self.see("out", output.transpose(1, 2))

    def weigh(self, scores: Tensor, sinks: Tensor | None, dtype: torch.dtype) -> Tensor:
        """The pattern for scores, both changed as asked and handed over."""
        scores = self.altered("attn_scores", scores)
        pattern = self.altered("pattern", softmax(scores, sinks, dtype))
        self.hand_over_weights(scores, pattern)
        return pattern

    def attend(
        self,
        original: Attention,
        module: nn.Module,
        query: Tensor,
        key: Tensor,
        value: Tensor,
        mask: Tensor | None,
        *args: Any,
        **kwargs: Any,
    ) -> tuple[Tensor, Tensor | None]:
        """Hand over what was asked for, then do what the model's own function does.

        The heads' outputs are computed here only where scores or pattern are changed.
        """
        query, key, value = self.vectors(query, key, value)
        pattern = None
        if (self.wanted | self.changed) & {"attn_scores", "pattern"}:
            found, sinks = scores(module, query, key, mask, **kwargs)
            pattern = self.weigh(found, sinks, query.dtype)
        if pattern is not None and self.changed & {"attn_scores", "pattern"}:
            output = torch.matmul(pattern, repeat_heads(value, query)).transpose(1, 2).contiguous()
        else:
            output, pattern = original(module, query, key, value, mask, *args, **kwargs)
        self.hand_over_output(output.transpose(1, 2))
        return output, pattern


def held_pattern(pattern: Tensor, *, whole: bool) -> Watch:
    """A watch that lets an attention look where it did.

    Parameters
    ----------
    pattern
        ``[1, head, query, key]``.
    whole
        Whether each row needs a pattern of its own in memory, as a family's own code may.
    """

    def held(kind: str, tensor: Tensor) -> Tensor:
        del kind
        same = pattern.to(tensor).expand_as(tensor)
        return same.contiguous() if whole else same

    return Watch(frozenset(), lambda kind, tensor: None, frozenset({"pattern"}), held)


@contextmanager
def watching(block: nn.Module, handler: Handler) -> Iterator[None]:
    """Send the attention of this block, on this thread, past the handler.

    Raises
    ------
    SiteError
        If the block has a handler on this thread already.
    """
    active = _watching.__dict__.setdefault("active", {})
    swapped: list[tuple[nn.Module, Any]] = []
    try:
        for module in block.modules():
            config = getattr(module, "config", None)
            if id(module) in active:
                raise SiteError(
                    "The inside of this attention is already read or edited on this thread: leave "
                    "`with model.edited(...)` first, or give its edits to this call."
                )
            if attention_of(config) not in (None, _NAME):
                swapped.append((module, config))
                module.config = _redirected(config)
                active[id(module)] = handler
        yield
    finally:
        for module, config in swapped:
            module.config = config
            active.pop(id(module), None)


def _redirected(config: Any) -> Any:
    """A copy of a configuration that names our attention function."""
    redirected = copy.copy(config)
    redirected._layerlens_original = attention_of(config)
    choose_attention(redirected, _NAME)
    return redirected


def _attention(
    module: nn.Module,
    query: Tensor,
    key: Tensor,
    value: Tensor,
    attention_mask: Tensor | None,
    *args: Any,
    **kwargs: Any,
) -> tuple[Tensor, Tensor | None]:
    """Let the handler of this module, if there is one on this thread, do the attention."""
    handler: Handler | None = _watching.__dict__.get("active", {}).get(id(module))
    config: Any = module.config
    # What the model itself would have called.
    original = attention_function(module, config._layerlens_original)
    if handler is None:
        return original(module, query, key, value, attention_mask, *args, **kwargs)
    return handler.attend(original, module, query, key, value, attention_mask, *args, **kwargs)


AttentionInterface.register(_NAME, _attention)


def repeat_heads(tensor: Tensor, query: Tensor) -> Tensor:
    """Keys or values ``[batch, head, position, width]``, one a query head."""
    groups = query.shape[1] // tensor.shape[1]
    return tensor.repeat_interleave(groups, dim=1) if groups > 1 else tensor


def scores(
    module: nn.Module | None,
    query: Tensor,
    key: Tensor,
    attention_mask: Tensor | None,
    *,
    scaling: float | None = None,
    softcap: float | None = None,
    s_aux: Tensor | None = None,
    position_bias: Tensor | None = None,
    is_causal: bool | None = None,
    **_: Any,
) -> tuple[Tensor, Tensor | None]:
    """Scores before the softmax, and the scores of the sinks.

    Parameters
    ----------
    query, key
        ``[batch, head, position, width]``, the key with key-value heads.
    attention_mask
        None (causal where the module is), boolean (True = may look) or additive.
    softcap
        Scores become ``softcap * tanh(scores / softcap)``.
    s_aux
        One sink score a head; the rows of the pattern then sum to less than 1.

    Returns
    -------
    scores
        ``[batch, head, query, key]``, the lowest finite number where masked.
    sinks
        ``[head]`` or None.
    """
    scale = query.shape[-1] ** -0.5 if scaling is None else scaling
    found = torch.matmul(query, repeat_heads(key, query).transpose(-1, -2)) * scale
    if softcap is not None:
        found = torch.tanh(found / softcap) * softcap
    if position_bias is not None:
        found = found + position_bias
    lowest = torch.finfo(found.dtype).min
    if attention_mask is None:
        causal = getattr(module, "is_causal", True) if is_causal is None else is_causal
        if causal and found.shape[-2] > 1:
            ahead = torch.ones(found.shape[-2:], dtype=torch.bool, device=found.device)
            found = found.masked_fill(ahead.triu(found.shape[-1] - found.shape[-2] + 1), lowest)
    elif attention_mask.dtype == torch.bool:
        found = found.masked_fill(~attention_mask[..., : found.shape[-1]], lowest)
    else:
        found = (found + attention_mask[..., : found.shape[-1]]).clamp(min=lowest)
    return found, getattr(module, "sinks", None) if s_aux is None else s_aux


def softmax(scores: Tensor, sinks: Tensor | None, dtype: torch.dtype) -> Tensor:
    """The pattern ``[batch, head, query, key]``; the softmax is taken in float32."""
    if sinks is None:
        return scores.softmax(-1, dtype=torch.float32).to(dtype)
    column = sinks.reshape(1, -1, 1, 1).expand(*scores.shape[:-1], 1).to(scores.dtype)
    pattern = torch.cat([scores, column], dim=-1).softmax(-1, dtype=torch.float32)
    return pattern[..., :-1].to(dtype)
