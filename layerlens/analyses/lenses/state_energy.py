"""Energy: how much of a state lies where the model's head reads it."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from layerlens.analyses.contributions.frozen_norm import measure_norm

if TYPE_CHECKING:
    from layerlens.model.lensmodel import LensModel

ROWS = 8192
"""Rows of the head that are looked at together."""


@dataclass(frozen=True)
class Energy:
    """Mean squared cosine of a state with the head's rows, against that of the rows themselves.

    As in Wendler et al. (2024), Do Llamas Work in English?, arXiv 2402.10588: with the rows
    ``u_t`` of the head times the final norm's gain, each of length 1, and a state ``h``,
    ``sqrt(mean_t (u_t h / |h|)^2) / sqrt(mean_ts (u_t u_s)^2)``.

    Attributes
    ----------
    square
        ``[width, width]`` mean over tokens of ``u_t u_t'``.
    gain, offset
        ``[width]`` of the final norm.
    """

    square: Tensor
    gain: Tensor
    offset: Tensor

    @classmethod
    def of(cls, model: LensModel, tick: Callable[[], None] = lambda: None) -> Energy | None:
        """Read the head of a model; None where it is not plainly one matrix."""
        matrix, head = model.head_matrix(), model.anatomy.head
        if matrix is None or head is None:
            return None
        width = matrix.weight.shape[1]
        gain, offset, centred = torch.ones(width), torch.zeros(width), False
        if head.norm is not None and head.chain[-1:] == (head.norm,):
            like = torch.zeros(width, dtype=model.dtype, device=model.device)
            gain, offset, centred = measure_norm(model, model.hf.get_submodule(head.norm), like)
        gain = gain.to(matrix.weight.device, torch.float32)
        square = torch.zeros(width, width, device=gain.device)
        for rows in matrix.weight.split(ROWS):
            tick()
            read = rows.float() * gain
            read = read - read.mean(-1, keepdim=True) if centred else read
            read = torch.nn.functional.normalize(read, dim=-1)
            square += read.T @ read
        offset = offset.to(gain) * head.scale_in
        return cls(square / len(matrix.weight), gain, offset)

    @property
    def at_random(self) -> float:
        """The energy of a direction drawn at random, the root of its mean square."""
        return float((self.square.trace() / len(self.square)).sqrt() / self.square.norm())

    def __call__(self, x: Tensor) -> Tensor:
        """Energy ``[n]`` of states of which the head is given ``x``, ``[n, width]``."""
        state = (x.float() - self.offset) / self.gain
        state = torch.nn.functional.normalize(state.nan_to_num(0, 0, 0), dim=-1)
        along = ((state @ self.square) * state).sum(-1)
        found: Tensor = along.clamp_min(0).sqrt() / self.square.norm()
        return found
