"""Reduce rows of head input to what a lens shows, without ever holding rows x vocabulary twice.

A chunk of rows goes through the head in one product; its logits are then read block by block
while they are still in the processor's cache: exact top-k from block maxima, one softmax pass
for the log-sum-exp and the entropy, one comparison pass for every chosen token.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, NamedTuple

import torch
from torch import Tensor

from layerlens.errors import LayerLensError, MemoryLimitError

if TYPE_CHECKING:
    from layerlens.model.lensmodel import LensModel
    from layerlens.model.with_head import HeadMatrix

BLOCK = 128
"""Columns in a block of the top-k search."""

PRODUCT_ROWS = 256
"""Rows in one product with the head: measured faster a row than 96 or 128 on two CPU cores."""

STATISTICS_ROWS = 32
"""Rows whose logits are reduced together, so that they stay in the cache between the passes."""

LOGIT_BYTES = 128 << 20
"""Bytes of logits held at once, at most."""

# Stands for "no such column": e**_FLOOR is 0, and 0 * _FLOOR is 0, not NaN.
_FLOOR = -1e30

_RARE = -1e4
"""A logit this far below the largest has probability 0 in any dtype; its square is finite."""


class Reduced(NamedTuple):
    """What is kept of the logits of ``R`` rows; tensors on the head's device."""

    top_ids: Tensor
    """[R, k] int64, best first."""
    top_logits: Tensor
    """[R, k]."""
    log_norm: Tensor
    """[R] log-sum-exp of the logits."""
    entropy: Tensor
    """[R] nats."""
    chosen: Tensor
    """[R, m] logits of the chosen tokens."""
    above: Tensor
    """[R, m] int64, how many logits are larger than the chosen one's."""


class Final(NamedTuple):
    """Extras of the last row of a lens, which the other rows are compared with."""

    mean_weight: Tensor | None
    """[R, d_head] the head's weight rows averaged under each row's own distribution; None where
    the head is not affine."""
    mean_bias: Tensor | None
    """[R] the same of its bias; None where it has none."""
    spread: Tensor
    """[R] nats, standard deviation of the log probability under the row's own distribution."""
    kept: list[Tensor]
    """Whole logits [V] of the rows that were asked for."""


class Head:
    """The head of one model and the buffers to read it through.

    Parameters
    ----------
    matrix
        The head as one affine map, or None.
    call
        Rows [R, d_head] to float logits [R, V]; used where ``matrix`` is None.
    d_vocab
        Number of logits.
    device
        Where the rows are, used where ``matrix`` is None.
    memory
        Bytes that the buffers may take.

    Raises
    ------
    MemoryLimitError
        When not even eight rows of logits fit.
    """

    def __init__(
        self,
        matrix: HeadMatrix | None,
        call: Callable[[Tensor], Tensor],
        d_vocab: int,
        *,
        device: torch.device | str = "cpu",
        memory: int = 2 * LOGIT_BYTES,
    ) -> None:
        self.matrix = matrix
        self.call = call
        self.d_vocab = d_vocab
        self.dtype = torch.float32 if matrix is None else matrix.weight.dtype
        self.device = torch.device(device) if matrix is None else matrix.weight.device
        self.work = torch.promote_types(torch.float32, self.dtype)
        self.width = -(-d_vocab // BLOCK) * BLOCK
        self.rows = product_rows(d_vocab, row_bytes(d_vocab, self.dtype), memory)
        on_cpu = self.device.type == "cpu"
        self.block_rows = min(STATISTICS_ROWS, self.rows) if on_cpu else self.rows
        self._logits: Tensor | None = None
        self._narrow: Tensor | None = None
        self._scratch: Tensor | None = None

    @classmethod
    def of(cls, model: LensModel, memory: int = 2 * LOGIT_BYTES) -> Head:
        """Take the head of a model."""
        matrix = model.head_matrix()
        d_vocab = model.d_vocab if matrix is None else len(matrix.weight)
        return cls(matrix, model.head, d_vocab, device=model.device, memory=memory)

    @property
    def linear(self) -> bool:
        """Whether float32 logits are an exact affine function of the head's input."""
        return self.matrix is not None and not self.matrix.softcap and self.dtype == self.work

    def accept(self, x: Tensor) -> Tensor:
        """Rows on the head's device, in its dtype."""
        return x if self.matrix is None else x.to(device=self.device, dtype=self.dtype)

    def _buffers(self) -> tuple[Tensor, Tensor]:
        if self._logits is None or self._scratch is None:
            shape, device = (self.rows, self.width), self.device
            self._logits = torch.full(shape, _FLOOR, dtype=self.work, device=device)
            self._scratch = torch.empty(
                (self.block_rows, self.width), dtype=self.work, device=device
            )
            if self.matrix is not None and self.dtype != self.work:
                narrow = (self.rows, self.d_vocab)
                self._narrow = torch.empty(narrow, dtype=self.dtype, device=device)
        return self._logits, self._scratch

    def logits(self, x: Tensor) -> Tensor:
        """Logits of up to ``rows`` rows.

        Parameters
        ----------
        x
            [R, d_head] in the model's dtype.

        Returns
        -------
        Tensor
            [R, V], a view of the buffer: valid until the next call.
        """
        buffer, _ = self._buffers()
        out = buffer[: len(x), : self.d_vocab]
        if self.matrix is None:
            out.copy_(self.call(x))
            return out
        weight, bias = self.matrix.weight.t(), self.matrix.bias
        product = out if self._narrow is None else self._narrow[: len(x)]
        if bias is None:
            torch.mm(x, weight, out=product)
        else:
            torch.addmm(bias, x, weight, out=product)
        capped = product
        if self.matrix.widens and product is not out:
            capped = out.copy_(product)
        if self.matrix.scale != 1.0:
            capped.mul_(self.matrix.scale)
        if self.matrix.softcap:
            capped.div_(self.matrix.softcap).tanh_().mul_(self.matrix.softcap)
        return out if capped is out else out.copy_(capped)

    def reduce(
        self,
        x: Tensor,
        chosen: Tensor,
        top_k: int,
        tick: Callable[[], None] = lambda: None,
        see: Callable[[int, Tensor], None] | None = None,
    ) -> Reduced:
        """Reduce one row or more.

        Parameters
        ----------
        x
            [R, d_head], the head's input.
        chosen
            [R, m] int64 token ids whose logit and rank are wanted (m may be 0).
        top_k
            How many of the largest logits to keep, at most the vocabulary.
        tick
            Called before each product; may raise to stop.
        see
            Called with the first row and the logits ``[n, V]`` of each block of rows while they
            are in the processor's cache; they are gone when it returns.

        Raises
        ------
        LayerLensError
            When a logit is NaN or plus infinity.
        """
        if see is None:
            return self._reduce(x, chosen, top_k, tick)
        shown = self.d_vocab
        return self._reduce(
            x, chosen, top_k, tick, lambda start, logits, _: see(start, logits[:, :shown])
        )

    def reduce_final(
        self,
        x: Tensor,
        chosen: Tensor,
        top_k: int,
        tick: Callable[[], None] = lambda: None,
        keep: Sequence[int] = (),
    ) -> tuple[Reduced, Final]:
        """Reduce the rows that others will be compared with; see :meth:`reduce` and `Final`.

        ``keep`` names, in ascending order, the rows whose whole logits are returned.
        """
        kept: list[Tensor] = []
        weights: list[Tensor] = []
        biases: list[Tensor] = []
        spreads: list[Tensor] = []

        def see(start: int, logits: Tensor, scratch: Tensor) -> None:
            inside = [row - start for row in keep if start <= row < start + len(logits)]
            kept.extend(logits[row, : self.d_vocab].clone() for row in inside)
            torch.softmax(logits, -1, out=scratch)
            probability = scratch[:, : self.d_vocab]
            total = scratch.sum(-1)
            if self.linear and self.matrix is not None:
                weights.append(probability @ self.matrix.weight / total.unsqueeze(-1))
                if self.matrix.bias is not None:
                    # A bias that suppresses a token (-inf) has weight 0 and adds nothing.
                    bias = self.matrix.bias.clamp_min(_FLOOR)
                    biases.append(probability @ bias / total)
            # Last, because it is computed in place of the logits.
            spreads.append(_spread(logits[:, : self.d_vocab], probability, total))

        reduced = self._reduce(x, chosen, top_k, tick, see)
        mean = torch.cat(weights) if weights else None
        bias = torch.cat(biases) if biases else None
        return reduced, Final(mean, bias, torch.cat(spreads), kept)

    def _reduce(
        self,
        x: Tensor,
        chosen: Tensor,
        top_k: int,
        tick: Callable[[], None],
        see: Callable[[int, Tensor, Tensor], None] | None = None,
    ) -> Reduced:
        """Reduce; ``see`` gets the first row, the logits and the scratch space of each block."""
        buffer, scratch = self._buffers()
        parts: list[Reduced] = []
        for start in range(0, len(x), self.rows):
            tick()
            count = len(self.logits(x[start : start + self.rows]))
            for low in range(0, count, self.block_rows):
                high = min(low + self.block_rows, count)
                logits, space = buffer[low:high], scratch[: high - low]
                here = slice(start + low, start + high)
                parts.append(_statistics(logits, space, chosen[here], top_k, self.d_vocab))
                if see is not None:
                    see(start + low, logits, space)
        return parts[0] if len(parts) == 1 else Reduced(*map(torch.cat, zip(*parts, strict=True)))


def row_bytes(d_vocab: int, dtype: torch.dtype) -> int:
    """Bytes of buffers for one row of logits: the logits, as much scratch, and a narrow copy."""
    work = torch.promote_types(torch.float32, dtype)
    narrow = 0 if dtype == work else dtype.itemsize
    return -(-d_vocab // BLOCK) * BLOCK * (2 * work.itemsize + narrow)


def product_rows(d_vocab: int, bytes_a_row: int, memory: int) -> int:
    """How many rows of logits to compute at once within ``memory`` bytes.

    Raises
    ------
    MemoryLimitError
        When not even eight rows fit.
    """
    if memory < 8 * bytes_a_row:
        raise MemoryLimitError(
            f"Eight rows of {d_vocab:,} logits need {8 * bytes_a_row / 1e6:.2g} MB of working "
            f"memory and the limit leaves {max(memory, 0) / 1e6:.2g} MB: raise memory_limit or "
            "ask for fewer positions or points."
        )
    return max(8, min(PRODUCT_ROWS, memory // bytes_a_row, LOGIT_BYTES // (4 * d_vocab)))


def top_k_by_blocks(logits: Tensor, maxima: Tensor, k: int) -> tuple[Tensor, Tensor]:
    """Find the ``k`` largest values of each row, exactly.

    A value among the k largest lies in one of the k blocks with the largest maxima: were its
    block not chosen, k chosen blocks would each hold a value at least as large.

    Parameters
    ----------
    logits
        [R, blocks * BLOCK], contiguous.
    maxima
        [R, blocks], the largest value of each block.
    k
        At least 1.

    Returns
    -------
    tuple of Tensor
        Values [R, k], descending, and their columns [R, k] int64.
    """
    blocks = maxima.shape[1]
    if k >= blocks:
        best = torch.topk(logits, k)
        return best.values, best.indices
    chosen = torch.topk(maxima, k).indices
    cells = logits.view(len(logits), blocks, BLOCK)
    candidates = cells.gather(1, chosen.unsqueeze(-1).expand(-1, -1, BLOCK)).flatten(1)
    best = torch.topk(candidates, k)
    block = chosen.gather(1, best.indices // BLOCK)
    return best.values, block * BLOCK + best.indices % BLOCK


def _spread(logits: Tensor, probability: Tensor, total: Tensor) -> Tensor:
    """Standard deviation of log probabilities ``[R]``; the logits are overwritten."""
    weight = probability.unsqueeze(1)
    # As products of matrices: they need no third array of this size.
    logits.sub_(logits.amax(-1, keepdim=True)).clamp_(min=_RARE)
    mean = (weight @ logits.unsqueeze(-1)).flatten() / total
    logits.sub_(mean.unsqueeze(-1)).square_()
    return ((weight @ logits.unsqueeze(-1)).flatten() / total).sqrt()


def _statistics(
    logits: Tensor, probability: Tensor, chosen: Tensor, top_k: int, d_vocab: int
) -> Reduced:
    """Reduce one block of rows; ``probability`` is scratch space of the same shape."""
    maxima = logits.view(len(logits), -1, BLOCK).amax(-1)
    if not bool(torch.isfinite(maxima.amax(-1)).all()):
        raise LayerLensError(
            "The head gave a logit that is NaN or infinite; check the model's weights and dtype "
            "(float16 overflows where bfloat16 or float32 do not)."
        )
    values, ids = top_k_by_blocks(logits, maxima, top_k)
    if bool((values[:, -1] <= _FLOOR).any()):  # fewer than k tokens are not suppressed (-inf)
        values, ids = torch.topk(logits[:, :d_vocab], top_k)
    torch.softmax(logits, -1, out=probability)
    best = probability.gather(1, ids[:, :1]).squeeze(1)
    # The softmax adds up in sequence and misses one by 1e-5; the pairwise sum says by how much.
    total = probability.sum(-1)
    log_norm = values[:, 0] - best.log() + total.log()
    # In place: between the small results of each block, a product of its own would leave holes
    # in the heap that none after it fits into, as many as there are blocks.
    mean_logit = probability.mul_(logits).sum(-1) / total
    if not bool(torch.isfinite(mean_logit).all()):
        # A suppressed token has logit -inf and weight 0: it adds nothing to the mean.
        mean_logit = probability.masked_fill_(logits == -torch.inf, 0.0).sum(-1) / total
    wanted = logits.gather(1, chosen)
    bounds = wanted.clamp_min(_FLOOR)  # columns that only fill a block are no tokens
    above = torch.empty_like(chosen)
    for column in range(chosen.shape[1]):
        # Ones in the float buffer sum exactly below 2**24, and far faster than a mask counts.
        torch.gt(logits, bounds[:, column : column + 1], out=probability)
        above[:, column] = probability.sum(-1).long()
    return Reduced(ids, values, log_norm, (log_norm - mean_logit).clamp_min(0), wanted, above)
