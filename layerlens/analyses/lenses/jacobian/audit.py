"""A Jacobian times a direction by forward mode, in which no cotangent takes part."""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch
from torch import Tensor
from torch.autograd import forward_ad
from torch.nn.attention import SDPBackend, sdpa_kernel

from layerlens.analyses.lenses.jacobian.prompt import final_of, repeated

if TYPE_CHECKING:
    from layerlens.analyses.lenses.points import Point
    from layerlens.model.lensmodel import LensModel
    from layerlens.model.text import Tokens


def pushed(
    model: LensModel, tokens: Tokens, point: Point, weights: Tensor, direction: Tensor
) -> Tensor | None:
    """``J x`` of one text: one pass in which every state at a point moves along ``x`` at once.

    Parameters
    ----------
    weights
        As the Jacobian was found with.
    direction
        ``x``, ``[d_model]``.

    Returns
    -------
    Tensor or None
        ``[d_model]`` float32 on the CPU; None where an operation of this model has no forward mode.
    """
    tokens = repeated(tokens, 1)
    weights = weights.to(model.device, model.dtype)
    with (
        model.running(gradients=True),
        forward_ad.dual_level(),
        sdpa_kernel(SDPBackend.MATH),  # the faster kernels have no forward mode
    ):
        tangent = weights[:, None] * direction.to(weights)
        dual = forward_ad.make_dual(torch.zeros_like(tangent), tangent)
        try:
            final = final_of(model, tokens, [point], [dual])
        except (NotImplementedError, RuntimeError) as error:
            if "forward" not in str(error):
                raise
            return None
        moved = forward_ad.unpack_dual(final).tangent
    summed = torch.zeros(model.d_model) if moved is None else (weights.to(moved) @ moved[0]).float()
    return summed.detach().cpu() / weights.count_nonzero().cpu()
