"""The Fourier basis of the numbers modulo p, and what of a function lies at each frequency."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property

import torch
from torch import Tensor


@dataclass(frozen=True)
class CyclicBasis:
    """Cosines and sines of every frequency over 0 to ``period - 1``.

    Frequency k goes round k times; there are those from 1 to ``period // 2``, and the constant
    beside them. All is float64.

    Parameters
    ----------
    period
        How many numbers there are, at least 3.

    Examples
    --------
    >>> basis = CyclicBasis(7)
    >>> wave = torch.cos(2 * torch.pi * 2 * torch.arange(7) / 7)[:, None]
    >>> basis.power(wave.double()).round(decimals=3).tolist()
    [0.0, 3.5, 0.0]
    """

    period: int

    @property
    def frequencies(self) -> range:
        """All of them."""
        return range(1, self.period // 2 + 1)

    @cached_property
    def waves(self) -> Tensor:
        """``[frequency, 2, period]``: cosine and sine, each of length 1, or 0 where it vanishes.

        The sine of ``period / 2`` is 0 at every number.
        """
        turns = torch.tensor(self.frequencies)[:, None] * torch.arange(self.period)
        angle = 2 * torch.pi * (turns % self.period).double() / self.period
        found = torch.stack([angle.cos(), angle.sin()], dim=1)
        size = found.norm(dim=-1, keepdim=True)
        return torch.where(size > 1e-6, found / size, 0.0)

    def parts(self, values: Tensor) -> Tensor:
        """``[frequency, 2, ...]``: coefficients of a function ``[period, ...]``."""
        return torch.einsum("ksp,p...->ks...", self.waves, values.double())

    def power(self, values: Tensor) -> Tensor:
        """``[frequency]``: squares of the coefficients of ``[period, ...]``, summed over the rest.

        With the constant's they add up to the sum of all squares (Parseval).
        """
        return self.parts(values).square().flatten(1).sum(1)

    def kept(self, values: Tensor, frequencies: Sequence[int]) -> Tensor:
        """What of a function ``[period, ...]`` lies at some frequencies, without its mean."""
        chosen = self.waves[[k - 1 for k in frequencies]]
        parts = torch.einsum("ksp,p...->ks...", chosen, values.double())
        return torch.einsum("ksp,ks...->p...", chosen, parts)


class PlanePower:
    """Of functions of two numbers, how much lies at each frequency; fed a row at a time.

    At frequency k are the waves of a, those of b, and their four products: eight directions.

    Parameters
    ----------
    basis
        Of either number.
    width
        How many functions there are.
    """

    def __init__(self, basis: CyclicBasis, width: int) -> None:
        self.basis = basis
        # Constant, cosine and sine of a times those of b; the constant alone is the mean.
        self._parts = torch.zeros(len(basis.frequencies), 3, 3, width, dtype=torch.float64)
        self._squares = torch.zeros(width, dtype=torch.float64)

    def add(self, a: int, values: Tensor) -> None:
        """Take in ``[b, width]`` of one a, every b."""
        values = values.double().cpu()
        waves, flat = self.basis.waves, self.basis.period**-0.5
        along = self.basis.parts(values)
        mean = (values.sum(0) * flat).expand(len(along), 1, -1)
        of_b = torch.cat([mean, along], dim=1)
        constant = torch.full((len(along), 1), flat, dtype=torch.float64)
        of_a = torch.cat([constant, waves[:, :, a]], dim=1)
        self._parts += of_a[:, :, None, None] * of_b[:, None]
        self._squares += values.square().sum(0)

    @property
    def width(self) -> int:
        """How many functions there are."""
        return len(self._squares)

    def _found(self) -> tuple[Tensor, Tensor]:
        """Power ``[frequency, width]``, and the variance ``[width]`` times the number of pairs."""
        squares = self._parts.square()
        # Its constant part is the same at every frequency: the mean.
        varied = self._squares - squares[0, 0, 0]
        varied = torch.where(varied > 1e-12 * self._squares, varied, 0.0)
        return squares.sum((1, 2)) - squares[:, 0, 0], varied

    def shares(self) -> Tensor:
        """``[frequency, width]``: share of each function's variance; NaN of a constant one."""
        power, varied = self._found()
        return torch.where(varied > 0, power / varied, torch.nan)

    def mean(self) -> Tensor:
        """``[frequency]``: share of the variance of all functions together."""
        power, varied = self._found()
        return power.sum(1) / varied.sum()
