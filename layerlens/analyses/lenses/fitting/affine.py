"""Affine maps from a state to the last one, from sums over tokens that are never held together."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from layerlens.analyses.lenses.readers import moved

if TYPE_CHECKING:
    from layerlens.analyses.lenses.points import Point
    from layerlens.model.lensmodel import LensModel

PENALTIES = (1e-8, 1e-6, 1e-4, 1e-3, 1e-2, 1e-1, 1.0)
"""Penalties that are tried, as shares of the mean variance of an entry of the state."""
PENALTY = 1e-2
"""The penalty where there is no further text to choose it on."""


@dataclass(frozen=True)
class AffineMap:
    """``h + h @ weight.T + bias``; either may be None, and then adds nothing."""

    weight: Tensor | None = None
    bias: Tensor | None = None

    def decode(self, model: LensModel, state: Tensor) -> Tensor:
        """What the head is given for states ``[n, d_model]``."""
        return model.head_input(moved(state, self.weight, self.bias))

    def arrays(self, point: Point) -> dict[str, Tensor]:
        """As a fitted lens keeps it."""
        found = {"weight": self.weight, "bias": self.bias}
        return {f"{point.label}.{n}": part for n, part in found.items() if part is not None}


class Moments:
    """Sums over tokens of states ``x`` at one point and of final states ``y``, in float64.

    Parameters
    ----------
    width
        Entries of a state.
    products
        Whether sums of products are kept, which a ridge map needs; else those of the states.
    device
        Where they are; the CPU where the device has no float64.
    width_y
        Entries of a state ``y``, where they are not those of ``x``.
    """

    def __init__(
        self, width: int, *, products: bool, device: torch.device, width_y: int | None = None
    ) -> None:
        self.device = torch.device("cpu") if device.type == "mps" else device
        self.n = 0
        other = width if width_y is None else width_y
        self.x, self.y = self._zeros(width), self._zeros(other)
        self.xx = self._zeros(*((width, width) if products else (0, 0)))
        self.xy = self._zeros(*((width, other) if products else (0, 0)))
        self.yy = 0.0

    def _zeros(self, *size: int) -> Tensor:
        return torch.zeros(size, dtype=torch.float64, device=self.device)

    def add(self, x: Tensor, y: Tensor) -> None:
        """Take in the states ``[n, width]`` of some tokens."""
        x, y = (rows.to(self.device, torch.float64) for rows in (x, y))
        self.n += len(x)
        self.x += x.sum(0)
        self.y += y.sum(0)
        if len(self.xx):
            self.xx.addmm_(x.T, x)
            self.xy.addmm_(x.T, y)
            self.yy += float(y.square().sum())

    def merge(self, other: Moments) -> None:
        """Take in the sums over other tokens."""
        self.n += other.n
        self.yy += other.yy
        for name in ("x", "y", "xx", "xy"):
            getattr(self, name).add_(getattr(other, name))


def mean_shift(moments: Moments) -> AffineMap:
    """The bias that takes the mean state to the mean final state: ``mean(y - x)``."""
    return AffineMap(bias=((moments.y - moments.x) / moments.n).float())


def ridge_map(moments: Moments, penalty: float) -> AffineMap:
    """The map with the least squared error to the final states, and a penalty on its size.

    ``A = (Cxx + penalty * tr(Cxx)/d * I)^-1 Cxy`` of centred states (Hoerl and Kennard, Ridge
    regression, 1970), kept as ``A - I`` beside the state itself.
    """
    product, bias = ridge_solution(moments, penalty)
    weight = product.T - torch.eye(len(product), dtype=product.dtype, device=product.device)
    return AffineMap(weight.float(), bias.float())


def best_penalty(moments: Moments, others: Moments) -> float:
    """The penalty whose map has the least squared error on other tokens, of `PENALTIES`."""
    return min(
        PENALTIES, key=lambda penalty: _squared_error(others, *ridge_solution(moments, penalty))
    )


def low_rank(moments: Moments, full: AffineMap, rank: int) -> tuple[Tensor, Tensor, Tensor]:
    """The part of a map that explains most of what it adds, as factors.

    What the map adds is projected on the ``rank`` directions in which it varies most (reduced-rank
    regression: Izenman, Reduced-rank regression for the multivariate linear model, 1975).

    Returns
    -------
    out, into, bias
        ``[d, rank]``, ``[rank, d]`` and ``[d]`` float32: ``weight = out @ into``.
    """
    assert full.weight is not None
    weight = full.weight.to(moments.x)
    centred = _centred(moments.xx, moments.x, moments.x, moments.n)
    directions = torch.linalg.eigh(weight @ centred @ weight.T).eigenvectors[:, -rank:]
    into = directions.T @ weight
    mean_x, mean_y = moments.x / moments.n, moments.y / moments.n
    bias = mean_y - mean_x - directions @ (into @ mean_x)
    return directions.float(), into.float(), bias.float()


def ridge_solution(moments: Moments, penalty: float) -> tuple[Tensor, Tensor]:
    """``A`` and ``b`` of ``y = x @ A + b``, float64; see `ridge_map`."""
    m = moments
    variance = _centred(m.xx, m.x, m.x, m.n)
    added = penalty * variance.diagonal().mean().clamp_min(torch.finfo(variance.dtype).tiny)
    variance.diagonal().add_(added)
    product = torch.linalg.solve(variance, _centred(m.xy, m.x, m.y, m.n))
    return product, (m.y - m.x @ product) / m.n


def _centred(products: Tensor, x: Tensor, y: Tensor, n: int) -> Tensor:
    return products - torch.outer(x, y) / n


def _squared_error(m: Moments, product: Tensor, bias: Tensor) -> float:
    """Sum of ``|y - x @ A - b|^2`` over tokens, from their sums alone."""
    fitted = (product * (m.xx @ product)).sum() + m.n * bias.square().sum()
    fitted += 2 * (m.x @ product) @ bias
    return float(m.yy - 2 * (product * m.xy).sum() - 2 * m.y @ bias + fitted)
