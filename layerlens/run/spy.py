"""See q, k, v, scores and pattern in families whose attention is code of their own.

While such an attention module runs, the torch functions it calls are looked at: the
product that feeds the softmax has q and k as its factors, the softmax turns the scores
into the pattern, and the product that takes the pattern has v as its other factor.
Nothing is computed differently.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor
from torch.overrides import TorchFunctionMode

from layerlens.run.attention import Watch, weights

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
        self._factors: tuple[Tensor, Tensor] | None = None
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
            self._see_fused(*args, **kwargs)
            output = func(*args, **kwargs)
            self._watch.hand_over_output(output)
            return output
        output = func(*args, **kwargs)
        if func in _PRODUCTS:
            at = _PRODUCTS[func]
            left = args[at] if len(args) > at else kwargs["batch1"]
            right = args[at + 1] if len(args) > at + 1 else kwargs["batch2"]
            self._see_product(left, right, output)
        elif func in _SOFTMAXES and self._factors is not None and output.dim() in (3, 4):
            self._see_softmax(*self._factors, args[0], output)
        return output

    def _heads(self, tensor: Tensor) -> Tensor:
        """``[batch, head, ...]``, also where heads were folded into the batch."""
        if tensor.dim() == 4:
            return tensor
        return tensor.reshape(-1, self._n_heads, *tensor.shape[1:])

    def _see_product(self, left: Tensor, right: Tensor, output: Tensor) -> None:
        if self._weights is None:
            self._factors = (left, right)
            return
        scores, pattern = self._weights
        if self._queries is not None and left.shape[-2:] == pattern.shape[-2:]:
            q, k = self._queries
            self._watch.hand_over(q, k, self._heads(right))
            self._watch.hand_over_weights(scores, pattern)
            self._watch.hand_over_output(self._heads(output))
            self._queries = None

    def _see_softmax(self, q: Tensor, k: Tensor, scores: Tensor, pattern: Tensor) -> None:
        self._queries = self._heads(q), self._heads(k).transpose(-1, -2)
        self._weights = self._heads(scores), self._heads(pattern)

    def _see_fused(
        self,
        query: Tensor,
        key: Tensor,
        value: Tensor,
        attn_mask: Tensor | None = None,
        dropout_p: float = 0.0,
        is_causal: bool = False,
        scale: float | None = None,
        **_: Any,
    ) -> None:
        self._watch.hand_over(query, key, value)
        if self._watch.wanted & {"attn_scores", "pattern"}:
            seen = weights(None, query, key, attn_mask, scaling=scale, is_causal=is_causal)
            self._watch.hand_over_weights(*seen)
