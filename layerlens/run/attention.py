"""See q, k, v, scores and pattern inside a block's attention, while it runs.

Families that use transformers' attention interface get, for the watched layers only, a
configuration that names our registered function. That function hands over what it was
given and then calls the implementation that the model would have called, so recording
never changes a number. Families with attention code of their own are watched by
:mod:`layerlens.run.spy`.
"""

from __future__ import annotations

import copy
import sys
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor, nn
from transformers import AttentionInterface
from transformers.modeling_utils import ALL_ATTENTION_FUNCTIONS

#: The kinds of sites that live inside an attention module.
INSIDE = frozenset({"q", "k", "v", "attn_scores", "pattern"})

_NAME = "layerlens"
_watching = threading.local()


class Watch:
    """What to hand over from one attention call.

    Parameters
    ----------
    wanted
        Which of :data:`INSIDE` are asked for; ``out`` for pattern times v.
    see
        Called with the kind and its tensor: ``q``, ``k``, ``v`` as ``[batch, position,
        head, width]`` (``k`` and ``v`` with key-value heads), ``attn_scores`` (-inf where
        masked) and ``pattern`` as ``[batch, head, query, key]``; ``out`` like ``q``.
    """

    def __init__(self, wanted: frozenset[str], see: Callable[[str, Tensor], None]) -> None:
        self.wanted = wanted
        self.see = see

    def hand_over(self, q: Tensor, k: Tensor, v: Tensor) -> None:
        """Hand over those of q, k, v (each ``[batch, head, position, width]``) asked for."""
        for kind, tensor in (("q", q), ("k", k), ("v", v)):
            if kind in self.wanted:
                self.see(kind, tensor.transpose(1, 2))

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


@contextmanager
def watching(block: nn.Module, watch: Watch) -> Iterator[None]:
    """Send the attention of this block, on this thread, past the watch."""
    active = _watching.__dict__.setdefault("active", {})
    swapped: list[tuple[nn.Module, Any]] = []
    try:
        for module in block.modules():
            config = getattr(module, "config", None)
            if getattr(config, "_attn_implementation", None) not in (None, _NAME):
                swapped.append((module, config))
                module.config = _redirected(config)
                active[id(module)] = watch
        yield
    finally:
        for module, config in swapped:
            module.config = config
            active.pop(id(module), None)


def _redirected(config: Any) -> Any:
    """A copy of a configuration that names our attention function."""
    redirected = copy.copy(config)
    redirected._layerlens_original = config._attn_implementation
    # The public setter would also reach into sub-configurations, which the copy shares.
    redirected._attn_implementation_internal = _NAME
    return redirected


def _original(module: nn.Module) -> Callable[..., tuple[Tensor, Tensor | None]]:
    """The attention function that the model itself would have called."""
    source = sys.modules[type(module).__module__]
    interface: Any = getattr(source, "ALL_ATTENTION_FUNCTIONS", ALL_ATTENTION_FUNCTIONS)
    eager = getattr(source, "eager_attention_forward", None)
    config: Any = module.config
    original: Callable[..., tuple[Tensor, Tensor | None]]
    original = interface.get_interface(config._layerlens_original, eager)
    return original


def _attention(
    module: nn.Module,
    query: Tensor,
    key: Tensor,
    value: Tensor,
    attention_mask: Tensor | None,
    *args: Any,
    **kwargs: Any,
) -> tuple[Tensor, Tensor | None]:
    """Hand over what was asked for, then do what the model's own function does."""
    watch = _watching.__dict__.get("active", {}).get(id(module))
    if watch is not None:
        watch.hand_over(query, key, value)
        if watch.wanted & {"attn_scores", "pattern"}:
            watch.hand_over_weights(*weights(module, query, key, attention_mask, **kwargs))
    output = _original(module)(module, query, key, value, attention_mask, *args, **kwargs)
    if watch is not None:
        watch.hand_over_output(output[0].transpose(1, 2))
    return output


AttentionInterface.register(_NAME, _attention)


def weights(
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
) -> tuple[Tensor, Tensor]:
    """Scores before the softmax and the pattern after it.

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
    scores, pattern
        Both ``[batch, head, query, key]``; the softmax is taken in float32.
    """
    groups = query.shape[1] // key.shape[1]
    key = key.repeat_interleave(groups, dim=1) if groups > 1 else key
    scale = query.shape[-1] ** -0.5 if scaling is None else scaling
    scores = torch.matmul(query, key.transpose(-1, -2)) * scale
    if softcap is not None:
        scores = torch.tanh(scores / softcap) * softcap
    if position_bias is not None:
        scores = scores + position_bias
    lowest = torch.finfo(scores.dtype).min
    if attention_mask is None:
        causal = getattr(module, "is_causal", True) if is_causal is None else is_causal
        if causal and scores.shape[-2] > 1:
            ahead = torch.ones(scores.shape[-2:], dtype=torch.bool, device=scores.device)
            scores = scores.masked_fill(ahead.triu(scores.shape[-1] - scores.shape[-2] + 1), lowest)
    elif attention_mask.dtype == torch.bool:
        scores = scores.masked_fill(~attention_mask[..., : scores.shape[-1]], lowest)
    else:
        scores = (scores + attention_mask[..., : scores.shape[-1]]).clamp(min=lowest)
    sinks = getattr(module, "sinks", None) if s_aux is None else s_aux
    if sinks is None:
        return scores, scores.softmax(-1, dtype=torch.float32).to(query.dtype)
    column = sinks.reshape(1, -1, 1, 1).expand(*scores.shape[:-1], 1).to(scores.dtype)
    pattern = torch.cat([scores, column], dim=-1).softmax(-1, dtype=torch.float32)
    return scores, pattern[..., :-1].to(query.dtype)
