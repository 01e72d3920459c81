"""KL divergence of every row of a lens from the final row, without a second set of logits."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import torch
from torch import Tensor

from layerlens.run.head_rows import PRODUCT_ROWS, Final, Head

COMPARE_BYTES = 64 << 20
"""Bytes of the final rows' logits and probabilities that are held while points are compared."""


class Reference:
    """The final rows of a lens, to compare others with.

    For a head that is affine, ``z = s (W x + b)``, the divergence needs no logits::

        KL(f || k) = sum_v p_f (z_f - z_k) + lse_k - lse_f
                   = s (sum_v p_f W_v) . (x_f - x_k) + lse_k - lse_f

    where the mean weight row ``sum_v p_f W_v`` costs one product for all points together. For a
    soft-capped or a half-precision head (whose logits are rounded) the logits are made again.

    Parameters
    ----------
    head
        The head.
    x
        [N, d_head], the final rows as the model feeds them to its head.
    log_norm
        [N] log-sum-exp of the final logits.
    final
        From :meth:`Head.reduce_final` of the same rows.
    """

    def __init__(self, head: Head, x: Tensor, log_norm: Tensor, final: Final) -> None:
        self._head = head
        self._x = x
        self._log_norm = log_norm
        self._final = final

    def mean_logit(self) -> Tensor | None:
        """[N] mean of the final logits under the final distribution, from the mean weight row.

        None where the head is not affine. The log-sum-exp minus this is the entropy, which the
        kernel computes in another way.
        """
        mean, bias = self._final.mean_weight, self._final.mean_bias
        if mean is None or self._head.matrix is None:
            return None
        product = (self._x.double() * mean.double()).sum(-1)
        return self._head.matrix.scale * (product if bias is None else product + bias)

    def kl(
        self,
        x: Sequence[Tensor],
        log_norm: Tensor,
        tick: Callable[[], None] = lambda: None,
    ) -> Tensor:
        """KL(final || point) in nats.

        Parameters
        ----------
        x
            One [N, d_head] a point.
        log_norm
            [points, N].
        tick
            Called before each product; may raise to stop.

        Returns
        -------
        Tensor
            [points, N]; rounding may leave values slightly below zero.
        """
        if self._final.mean_weight is None or self._head.matrix is None:
            return self._from_logits(x, log_norm, tick)
        scale = self._head.matrix.scale
        out = torch.empty_like(log_norm)
        for start in range(0, len(self._x), PRODUCT_ROWS):
            here = slice(start, start + PRODUCT_ROWS)
            # In double precision: two large numbers nearly cancel.
            final, mean = self._x[here].double(), self._final.mean_weight[here].double()
            for point in range(len(x)):
                change = (log_norm[point, here] - self._log_norm[here]).double()
                found = torch.linalg.vecdot(final - x[point][here].double(), mean)
                out[point, here] = found.mul_(scale).add_(change)
        return out

    def _from_logits(
        self, x: Sequence[Tensor], log_norm: Tensor, tick: Callable[[], None]
    ) -> Tensor:
        out = torch.empty_like(log_norm)
        step = self.rows_at_once(self._head)
        for start in range(0, len(self._x), step):
            here = slice(start, start + step)
            final = self._head.logits(self._x[here]).clone()
            shift = self._log_norm[here]
            probability = (final - shift.unsqueeze(-1)).exp()
            for point in range(len(x)):
                tick()
                difference = self._head.logits(x[point][here])
                torch.sub(final, difference, out=difference)
                mean = difference.mul_(probability).sum(-1)
                if not bool(torch.isfinite(mean).all()):
                    # A token that is suppressed (-inf) has weight 0 and adds nothing.
                    mean = difference.masked_fill_(probability == 0, 0.0).sum(-1)
                out[point, here] = mean + log_norm[point, here] - shift
        return out

    @staticmethod
    def rows_at_once(head: Head) -> int:
        """Rows that are compared together when logits are made again."""
        return max(8, min(head.rows, COMPARE_BYTES // (2 * head.width * head.work.itemsize)))


class FromFirst:
    """KL divergence of rows from the first row of their group, while their logits are at hand.

    For a few rows at a time, whose logits are made once and in one product: pass :meth:`see` to
    :meth:`Head.reduce`, then ask :meth:`kl`.

    Parameters
    ----------
    group
        Rows in a group; the first of each is what the others are compared with.
    """

    def __init__(self, group: int) -> None:
        self._group = group
        self._means: list[Tensor] = []
        self._first = self._probability = torch.empty(0)

    def see(self, start: int, logits: Tensor) -> None:
        """Take a block of rows; blocks come in their order."""
        at = 0
        while at < len(logits):
            inside = (start + at) % self._group
            if not inside:
                self._first = logits[at].clone()
                self._probability = torch.softmax(self._first, -1)
            end = min(at + self._group - inside, len(logits))
            difference = self._first - logits[at:end]
            # A token that is suppressed (-inf) has weight 0 and adds nothing.
            difference.masked_fill_(self._probability == 0, 0.0)
            self._means.append(difference @ self._probability)
            at = end

    def kl(self, log_norm: Tensor) -> Tensor:
        """``[rows]`` nats from the log-sum-exp of each row; rounding may leave it below zero."""
        means = torch.cat(self._means)
        grouped = log_norm.view(-1, self._group)
        found: Tensor = means.view_as(grouped) + grouped - grouped[:, :1]
        return found.flatten()
