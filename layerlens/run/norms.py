"""What a norm does, measured on the norm itself: its gain, its offset, whether the mean goes."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from layerlens.model.evidence import limit

if TYPE_CHECKING:
    from layerlens.model.lensmodel import LensModel

PROBE = 64.0
"""Size of the values that a norm's gain is measured with: its epsilon does not count there."""


def measure_norm(
    model: LensModel, norm: Callable[[Tensor], Tensor], x: Tensor
) -> tuple[Tensor, Tensor, bool]:
    """Gain and offset of a norm, and whether it takes the mean off, from what it gives.

    Parameters
    ----------
    norm
        The module, or its ``forward`` where hooks are not to see this.
    x
        ``[..., width]``, an input of it; what a norm of heads is given has their axes too.

    Returns
    -------
    gain, offset
        Shaped like ``x``, float64 on the CPU: the offset at zero, the gain with large values.
    centred
        Whether the mean is taken off.
    """
    signs = _signs(x)
    rows = torch.stack([torch.zeros_like(x), signs * PROBE, (signs + 0.5) * PROBE])
    with model.running():
        zero, large, shifted = norm(rows).cpu().double()
    centred = bool((shifted - large).abs().max() <= limit(model, 64) * large.abs().max())
    probe = centre(signs.cpu().double(), centred)
    gain = (large - zero) * probe.square().mean(-1, keepdim=True).sqrt() / probe
    return gain, zero, centred


def _signs(x: Tensor) -> Tensor:
    """One and minus one in turn, shaped like an input."""
    signs = torch.ones_like(x)
    signs[..., 1::2] = -1
    return signs


def centre(x: Tensor, centred: bool) -> Tensor:
    """The input of a norm as its gain meets it: less its mean, if the norm takes that off."""
    return x - x.mean(-1, keepdim=True) if centred else x
