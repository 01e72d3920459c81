"""Energy: how much of a state lies where the model's head reads it."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from layerlens.analyses.lenses.head_directions import HeadDirections

if TYPE_CHECKING:
    from layerlens.model.lensmodel import LensModel


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
        head = HeadDirections.of(model)
        if head is None:
            return None
        square = torch.zeros(len(head.gain), len(head.gain), device=head.gain.device)
        for rows in head.chunks(tick):
            read = torch.nn.functional.normalize(rows, dim=-1)
            square += read.T @ read
        tokens = len(head.matrix.weight)
        return cls(square / tokens, head.gain, head.offset * head.scale_in)

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
