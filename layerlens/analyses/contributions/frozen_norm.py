"""A module held at one input, so that it is an affine map: a norm with its statistics kept.

Nothing is known of a module but what it gives: a norm's gain, offset and scale are measured, and
what was measured is compared with the module's own output.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Protocol

import torch
from torch import Tensor, nn

from layerlens.errors import ModelError
from layerlens.model.evidence import limit
from layerlens.model.sums import is_norm
from layerlens.run.norms import centre, measure_norm

if TYPE_CHECKING:
    from layerlens.model.lensmodel import LensModel


class Frozen(Protocol):
    """An affine map ``y = A x + b``, used backwards: from directions in y to directions in x."""

    def pull(self, directions: Tensor) -> Tensor:
        """``A^T`` times directions ``[n, width of y]`` float64: ``[n, width of x]``."""

    def constant(self, directions: Tensor) -> Tensor:
        """``b`` along each direction, ``[n]`` float64."""


@dataclass(frozen=True, eq=False)
class FrozenNorm:
    """A norm at one input: ``y = inverse * gain * (x - mean of x, or 0) + offset``.

    Attributes
    ----------
    gain, offset
        ``[width]`` float64 on the CPU.
    inverse
        One over the norm's statistic (deviation, or root mean square) at the input.
    centred
        Whether the mean is taken off.
    """

    gain: Tensor
    offset: Tensor
    inverse: float
    centred: bool

    def pull(self, directions: Tensor) -> Tensor:
        """``A^T`` times directions ``[n, width]``."""
        pulled = directions * self.gain * self.inverse
        return pulled - pulled.mean(-1, keepdim=True) if self.centred else pulled

    def constant(self, directions: Tensor) -> Tensor:
        """Return the offset along each direction."""
        return directions @ self.offset


@dataclass(frozen=True, eq=False)
class FrozenNorms:
    """A norm at several inputs: as `FrozenNorm`, with a scale for each.

    Attributes
    ----------
    inverse
        ``[n]`` float64 on the CPU.
    """

    gain: Tensor
    offset: Tensor
    inverse: Tensor
    centred: bool

    def at(self, rows: slice) -> FrozenNorms:
        """The norm at some of the inputs."""
        return replace(self, inverse=self.inverse[rows])

    def push(self, parts: Tensor) -> Tensor:
        """``A`` of each input times the parts that it is a sum of, ``[n, ..., width]``."""
        scale = self.inverse.to(parts).view(-1, *[1] * (parts.dim() - 1))
        return centre(parts, self.centred) * self.gain.to(parts) * scale


@dataclass(frozen=True, eq=False)
class Affine:
    """A module that is affine by itself (a projection, the head), reached by autograd.

    Attributes
    ----------
    module
        The model's own; never copied.
    like
        An input of it, ``[width]``.
    """

    model: LensModel
    module: nn.Module
    like: Tensor

    def pull(self, directions: Tensor) -> Tensor:
        """Vector-Jacobian product at zero; gradients have to be recorded."""
        x = torch.zeros(
            (len(directions), len(self.like)),
            dtype=self.like.dtype,
            device=self.like.device,
            requires_grad=True,
        )
        y: Tensor = self.module(x)
        (pulled,) = torch.autograd.grad(y, x, directions.to(y))
        return pulled.cpu().double()

    def constant(self, directions: Tensor) -> Tensor:
        """Return what the module makes of zero, along each direction."""
        with self.model.running():
            given: Tensor = self.module(torch.zeros_like(self.like).unsqueeze(0))[0]
        # A bias that suppresses a token (-inf) adds nothing along what leaves it out.
        along: Tensor = directions * given.cpu().double()
        return along.where(directions != 0, 0.0).sum(-1)


def freeze_rows(model: LensModel, path: str, x: Tensor) -> FrozenNorms:
    """Hold a norm of a model at several inputs, ``[n, width]``, in its own dtype and place."""
    return _norms(model, model.hf.get_submodule(path), x)


def freeze(model: LensModel, path: str, x: Tensor) -> Frozen:
    """Hold a module of a model at one input.

    Parameters
    ----------
    path
        Path of the module: a norm, or something affine.
    x
        ``[width]``, its input, in the dtype and on the device in which it is given it.

    Raises
    ------
    ModelError
        If the module is not affine even so; says by how much.
    """
    module = model.hf.get_submodule(path)
    found = _norm(model, module, x) if is_norm(module) else Affine(model, module, x)
    with model.running():
        given = module(x.unsqueeze(0))[0].cpu().double()
    given = given.where(given.isfinite(), 0.0)
    along = given.sign().unsqueeze(0)
    pulled = found.pull(along) * x.cpu().double()
    off = (pulled.sum() + found.constant(along)[0] - given.abs().sum()).abs().item()
    size = max(pulled.abs().sum().item(), given.abs().sum().item(), torch.finfo(torch.float32).tiny)
    allowed = limit(model, 64)
    if not off <= allowed * size:
        raise ModelError(
            f"{path} ({type(module).__name__}) is not affine, even with its statistics held: it is "
            f"off by {off / size:.2g} of its output, allowed is {allowed:.2g}; what passes through "
            "it cannot be split exactly."
        )
    return found


def _norm(model: LensModel, module: nn.Module, x: Tensor) -> FrozenNorm:
    """Measure a norm, and its scale at one input."""
    held = _norms(model, module, x.unsqueeze(0))
    return FrozenNorm(held.gain, held.offset, float(held.inverse[0]), held.centred)


def _norms(model: LensModel, module: nn.Module, x: Tensor) -> FrozenNorms:
    """Measure a norm, and its scale at each input."""
    gain, zero, centred = measure_norm(model, module, x[0])
    with model.running():
        given = module(x).cpu().double()
    linear = gain * centre(x.cpu().double(), centred)
    square = torch.linalg.vecdot(linear, linear)
    along = torch.linalg.vecdot(given - zero, linear)
    return FrozenNorms(gain, zero, (along / square).where(square > 0, 0.0), centred)
