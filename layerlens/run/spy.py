"""See and change v, scores and pattern in families whose attention is code of their own.

While such an attention module runs, the torch functions it calls are looked at: the
product that feeds the softmax has q and k as its factors, the softmax turns the scores
into the pattern, and the product that takes the pattern has v as its other factor. Of several
products before the softmax the first that is shaped like the scores counts: what DeBERTa adds
for relative positions are products of later ones, with vectors that are no position's.
Nothing is computed differently unless a change was asked for. q and k are known only when the
softmax has shown which product was theirs, so they can be seen and not changed.
"""

from __future__ import annotations

from collections.abc import Callable
from contextlib import ExitStack
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.overrides import TorchFunctionMode

from layerlens.run.attention import Watch, repeat_heads, scores
from layerlens.run.gate import Gate

_PRODUCTS: dict[Callable[..., Any], int] = {
    # function -> position of the first factor among its arguments
    torch.matmul: 0,
    torch.bmm: 0,
    torch.baddbmm: 1,
    Tensor.matmul: 0,
    Tensor.__matmul__: 0,
    Tensor.bmm: 0,
    Tensor.baddbmm: 1,
}
_SOFTMAXES = {F.softmax, torch.softmax, Tensor.softmax}


class Spy(TorchFunctionMode):
    """Looks at the torch functions that one attention module calls.

    Parameters
    ----------
    watch
        What to hand over.
    n_heads
        Query heads, where heads are folded into the batch axis.
    """

    def __init__(self, watch: Watch, n_heads: int) -> None:
        super().__init__()
        self._watch = watch
        self._n_heads = n_heads
        self._factors: list[tuple[Tensor, Tensor]] = []
        self._queries: tuple[Tensor, Tensor] | None = None
        self._weights: tuple[Tensor, Tensor] | None = None

    def __torch_function__(
        self,
        func: Callable[..., Any],
        types: Any,
        args: tuple[Any, ...] = (),
        kwargs: dict[str, Any] | None = None,
    ) -> Any:
        kwargs = kwargs or {}
        if func is F.scaled_dot_product_attention:
            return self._fused(func, *args, **kwargs)
        if func in _PRODUCTS:
            return self._product(func, args, kwargs)
        if func in _SOFTMAXES and self._factors and args[0].dim() in (3, 4):
            return self._softmax(func, args, kwargs)
        return func(*args, **kwargs)

    def _heads(self, tensor: Tensor) -> Tensor:
        """``[batch, head, ...]``, also where heads were folded into the batch."""
        if tensor.dim() == 4:
            return tensor
        return tensor.reshape(-1, self._n_heads, *tensor.shape[1:])

    def _meeting(self, given: Tensor) -> tuple[Tensor, Tensor]:
        """The factors of the product that the scores are, or begin with."""
        shape = given.shape[-2:]
        fits = [(q, k) for q, k in self._factors if (q.shape[-2], k.shape[-1]) == shape]
        return (fits or self._factors[-1:])[0]

    def _product(
        self, func: Callable[..., Any], args: tuple[Any, ...], kwargs: dict[str, Any]
    ) -> Any:
        at = _PRODUCTS[func]
        left = args[at] if len(args) > at else kwargs["batch1"]
        right = args[at + 1] if len(args) > at + 1 else kwargs["batch2"]
        if self._weights is None:
            if min(left.dim(), right.dim()) >= 2:
                self._factors.append((left, right))
            return func(*args, **kwargs)
        found, pattern = self._weights
        if self._queries is None or left.shape[-2:] != pattern.shape[-2:]:
            return func(*args, **kwargs)
        for kind, tensor in zip("qk", self._queries, strict=True):
            self._watch.vector(kind, tensor)
        value = self._watch.vector("v", self._heads(right))
        if "v" in self._watch.changed:
            value = value.reshape(right.shape)
            args = tuple(value if arg is right else arg for arg in args)
            kwargs = {key: value if arg is right else arg for key, arg in kwargs.items()}
        output = func(*args, **kwargs)
        self._watch.hand_over_weights(found, pattern)
        self._watch.hand_over_output(self._heads(output))
        self._queries = None
        return output

    def _softmax(
        self, func: Callable[..., Any], args: tuple[Any, ...], kwargs: dict[str, Any]
    ) -> Any:
        given, *rest = args
        found = self._watch.altered("attn_scores", self._heads(given))
        pattern = self._heads(func(found.reshape(given.shape), *rest, **kwargs))
        pattern = self._watch.altered("pattern", pattern)
        q, k = self._meeting(given)
        self._queries = self._heads(q), self._heads(k).transpose(-1, -2)
        self._weights = found, pattern
        return pattern.reshape(given.shape)

    def _fused(
        self,
        func: Callable[..., Tensor],
        query: Tensor,
        key: Tensor,
        value: Tensor,
        attn_mask: Tensor | None = None,
        dropout_p: float = 0.0,
        is_causal: bool = False,
        scale: float | None = None,
        **rest: Any,
    ) -> Tensor:
        query, key, value = self._watch.vectors(query, key, value)
        pattern = None
        if (self._watch.wanted | self._watch.changed) & {"attn_scores", "pattern"}:
            found, _ = scores(None, query, key, attn_mask, scaling=scale, is_causal=is_causal)
            pattern = self._watch.weigh(found, None, query.dtype)
        if pattern is not None and self._watch.changed & {"attn_scores", "pattern"}:
            output = torch.matmul(pattern, repeat_heads(value, query))
        else:
            output = func(
                query, key, value, attn_mask, dropout_p, is_causal=is_causal, scale=scale, **rest
            )
        self._watch.hand_over_output(output)
        return output


def spy_on(module: nn.Module, watch: Watch, n_heads: int, gate: Gate, stack: ExitStack) -> None:
    """Look at the torch functions that a module calls, until the stack closes."""
    running: list[ExitStack] = []

    def entering(module: nn.Module, args: tuple[Any, ...]) -> None:
        if gate.open:
            running.append(ExitStack())
            running[-1].enter_context(Spy(watch, n_heads))

    def leaving(*_: Any) -> None:
        if running and gate.ours:
            running.pop().close()

    stack.callback(leaving)  # an exception inside the module skips the forward hook
    stack.callback(module.register_forward_pre_hook(entering).remove)
    stack.callback(module.register_forward_hook(leaving).remove)
