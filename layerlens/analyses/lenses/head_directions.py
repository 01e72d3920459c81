"""The rows of a model's head as directions in its last state, through the final norm."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from layerlens.run.norms import measure_norm

if TYPE_CHECKING:
    from layerlens.model.lensmodel import LensModel
    from layerlens.model.with_head import HeadMatrix

ROWS = 8192
"""Rows of the head that are looked at together."""


@dataclass(frozen=True)
class HeadDirections:
    """What of a state each logit is a product with, up to the size that the norm takes away.

    The logit of token ``v`` is ``(u_v h) / size(h) + constant_v`` before a soft-cap, with ``u_v``
    the row of the head times the norm's gain, less its mean where the norm takes that of the
    state away.

    Attributes
    ----------
    matrix
        The head.
    gain, offset
        ``[d_model]`` float32 of the final norm; ones and zeros where there is none.
    centred
        Whether the norm takes the mean of a state away.
    scale_in
        What a state is multiplied with behind the norm.
    """

    matrix: HeadMatrix
    gain: Tensor
    offset: Tensor
    centred: bool
    scale_in: float

    @classmethod
    def of(cls, model: LensModel) -> HeadDirections | None:
        """Read the head of a model; None where it is not plainly one matrix behind one norm."""
        matrix, head = model.head_matrix(), model.anatomy.head
        if matrix is None or head is None:
            return None
        width = matrix.weight.shape[1]
        gain, offset, centred = torch.ones(width), torch.zeros(width), False
        if head.norm is not None and head.chain[-1:] == (head.norm,):
            like = torch.zeros(width, dtype=model.dtype, device=model.device)
            gain, offset, centred = measure_norm(model, model.hf.get_submodule(head.norm), like)
        device = matrix.weight.device
        gain, offset = (part.to(device, torch.float32) for part in (gain, offset))
        return cls(matrix, gain, offset, centred, head.scale_in)

    def rows(self, ids: Sequence[int]) -> Tensor:
        """Directions ``[n, d_model]`` float32 of some tokens."""
        return self._through(self.matrix.weight[list(ids)])

    def constants(self, ids: Sequence[int]) -> Tensor:
        """``[n]`` float32: what is in the logits of these tokens whatever the state is."""
        weight = self.matrix.weight[list(ids)].detach().float()
        given = weight @ (self.offset * self.scale_in)
        if self.matrix.bias is not None:
            given = given + self.matrix.bias[list(ids)].float()
        return given * self.matrix.scale

    def chunks(self, tick: Callable[[], None] = lambda: None) -> Iterator[Tensor]:
        """The directions of the whole vocabulary, some rows at a time."""
        for rows in self.matrix.weight.split(ROWS):
            tick()
            yield self._through(rows)

    def _through(self, rows: Tensor) -> Tensor:
        read = rows.detach().float() * self.gain
        return read - read.mean(-1, keepdim=True) if self.centred else read
