"""A map of small rank as a sum of singular channels."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

FAINT = 1e-5
"""Share of the largest singular value below which a channel is rounding."""


@dataclass(frozen=True, eq=False)
class Channels:
    """A map ``left @ right`` of small rank as a sum of channels, the strongest first.

    Attributes
    ----------
    out, into
        ``[d_model, channel]`` float64, orthonormal: the map is ``out diag(strength) into^T``.
    strength
        ``[channel]`` singular values.
    """

    out: Tensor
    strength: Tensor
    into: Tensor

    @classmethod
    def of(cls, left: Tensor, right: Tensor) -> Channels:
        """Split ``left [d_model, size]`` times ``right [size, d_model]``; no larger product."""
        ql, rl = torch.linalg.qr(left.double())
        qr, rr = torch.linalg.qr(right.double().T)
        u, strength, w = torch.linalg.svd(rl @ rr.T)
        kept = strength > FAINT * strength[0] if strength[0] > 0 else strength > 0
        return cls((ql @ u)[:, kept], strength[kept], (qr @ w.T)[:, kept])

    def __len__(self) -> int:
        return len(self.strength)

    def share(self) -> Tensor:
        """Share of each in the square of the map's Frobenius norm."""
        squares = self.strength.square()
        return squares / squares.sum()

    def turned(self, signs: Tensor) -> Channels:
        """The same channels with both sides multiplied by one or minus one each."""
        return Channels(self.out * signs, self.strength, self.into * signs)

    def off(self, left: Tensor, right: Tensor) -> float:
        """How far the sum of all channels is from the map, as a share of it, on fixed inputs."""
        generator = torch.Generator().manual_seed(0)
        x = torch.randn(right.shape[1], 8, generator=generator, dtype=torch.float64)
        x = x.to(right.device)
        own = left.double() @ (right.double() @ x)
        summed = self.out @ (self.strength[:, None] * (self.into.T @ x))
        return float((summed - own).norm() / own.norm().clamp(min=1e-30))
