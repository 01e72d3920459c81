"""The affine map of a held text from a depth to the last state: its bias and strongest directions.

With all positions' states at a depth as one long vector ``x``, the last state is ``A x + b``. The
matrix is never formed: forward passes give ``A v``, ways back ``A^T u``.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, NamedTuple

import torch
from torch import Tensor

if TYPE_CHECKING:
    from layerlens.run.frozen import FrozenText

MORE = 4
"""Directions followed beyond those asked for: the last ones settle last."""

SETTLED = 0.01
"""Share by which a singular value may still grow in the last round."""


class Strongest(NamedTuple):
    """The largest singular values of the map from one depth.

    Attributes
    ----------
    values
        ``[count]`` float64, falling.
    growth
        By what share one of them still grew in the last round.
    rounds
        Rounds taken, each a pass and a way back.
    transpose_off
        How far ``<u, A v>`` is from ``<A^T u, v>``, of the largest.
    """

    values: Tensor
    growth: float
    rounds: int
    transpose_off: float


def bias(frozen: FrozenText, layer: int) -> Tensor:
    """``b``: the last state where all states at the depth are 0, ``[d_model]``."""
    return frozen.final(layer, torch.zeros_like(frozen.states[layer])[None])[0]


def strongest(
    frozen: FrozenText, layer: int, constant: Tensor, count: int, rounds: int, seed: int
) -> Strongest:
    """Largest singular values of ``A``, by power iteration with several directions at once.

    Parameters
    ----------
    layer
        Depth, as in `FrozenText.final`.
    constant
        ``b``, as :func:`bias` gives it.
    count
        How many; at most ``d_model``.
    rounds
        At most; it ends before where none grows by more than `SETTLED`.
    seed
        Of the first directions.

    Notes
    -----
    The values are those of ``A`` on the directions that were found: never too large.
    """
    state = frozen.states[layer]
    wide = min(count + MORE, state.shape[-1], state.numel())
    random = torch.Generator().manual_seed(seed)
    v = _orthonormal(torch.randn(wide, state.numel(), generator=random, dtype=torch.float64))
    before, growth, off = torch.zeros(count, dtype=torch.float64), float("inf"), 0.0
    taken = 0
    while taken < rounds and growth > SETTLED:
        taken += 1
        leaf = v.to(state).view(wide, *state.shape).requires_grad_()
        given = frozen.final(layer, leaf)
        pushed = given.detach().double() - constant.double()
        u = _orthonormal(pushed)
        (slope,) = torch.autograd.grad(given, leaf, u.to(given))
        pulled = slope.double().flatten(1)
        off = max(off, _apart(u @ pushed.T, pulled @ v.T))
        values = torch.linalg.svdvals(pushed)[:count]
        growth = float(((values - before) / values.clamp(min=1e-12)).max())
        before, v = values, _orthonormal(pulled)
    return Strongest(before.cpu(), growth, taken, off)


def _orthonormal(rows: Tensor) -> Tensor:
    """Orthonormal rows that span the same."""
    found: Tensor = torch.linalg.qr(rows.T).Q.T
    return found


def _apart(one: Tensor, other: Tensor) -> float:
    return float((one - other).abs().max() / one.abs().max().clamp(min=1e-12))
