"""One text's Jacobians: cotangents at all of its last states, taken back to many points at once."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING

import numpy as np
import torch
from torch import Tensor

from layerlens.errors import ActivationError
from layerlens.model.sites import Site
from layerlens.run.changes import Change
from layerlens.run.forward import forward

if TYPE_CHECKING:
    from layerlens.analyses.lenses.points import Point
    from layerlens.model.lensmodel import LensModel
    from layerlens.model.text import Tokens

FUTURE, SELF = "future", "self"
REDUCTIONS = (FUTURE, SELF)


def weights_of(length: int, skipped: int, reduction: str, seed: tuple[int, int]) -> Tensor:
    """What each position counts, as a source and as a target, ``[position]``.

    With ``w`` these weights, the products ``w_s * w_t`` of a source and a later target are 1 for
    ``"future"``. For ``"self"`` they are random signs whose mean is 1 where both are one position
    and else 0, so that the sum over targets has the mean of that over one position alone.

    Parameters
    ----------
    length
        Tokens of the text.
    skipped
        How many positions at its beginning do not count; neither does the last one.
    seed
        Of the signs.
    """
    weights = torch.zeros(length)
    count = length - 1 - skipped
    if reduction == SELF:
        signs = np.random.default_rng(seed).choice((-1.0, 1.0), count)
        weights[skipped:-1] = torch.from_numpy(signs)
    else:
        weights[skipped:-1] = 1
    return weights


class Prompt:
    """A text in as many rows as cotangents go back at once, in the graph of one pass.

    Parameters
    ----------
    tokens
        The text alone, without padding.
    points
        Where derivatives are wanted.
    weights
        From :func:`weights_of`.
    rows
        How many.
    tick
        Called before each pass back; may raise to stop.

    Raises
    ------
    ActivationError
        A state is not finite.
    """

    def __init__(
        self,
        model: LensModel,
        tokens: Tokens,
        points: Sequence[Point],
        weights: Tensor,
        rows: int,
        tick: Callable[[], None],
    ) -> None:
        self._weights, self._rows, self._tick = weights, rows, tick
        tokens = repeated(tokens, rows)
        shape = (*tokens.ids.shape, model.d_model)
        with model.running(gradients=True):
            self._leaves = [
                torch.zeros(shape, dtype=model.dtype, device=model.device, requires_grad=True)
                for _ in points
            ]
            self._final = final_of(model, tokens, points, self._leaves)
        if not bool(torch.isfinite(self._final).all()):
            raise ActivationError(
                "The model's last states hold NaN or infinity: check its weights and dtype "
                "(float16 overflows where bfloat16 or float32 do not)."
            )

    def pull(self, cotangents: Tensor) -> Tensor:
        """Rows of the Jacobian of every point.

        Parameters
        ----------
        cotangents
            ``[n, d_model]``, at most as many as there are rows.

        Returns
        -------
        Tensor
            ``[point, n, d_model]`` float32 on the CPU: ``c @ J`` for each cotangent ``c``, with
            ``J`` the mean over sources of the sum over targets.
        """
        weights = self._weights.to(self._final)
        along = torch.zeros_like(self._final)
        along[: len(cotangents)] = weights[:, None] * cotangents.to(along)[:, None]
        found = []
        for gradient in self._back(along):
            counted = self._weights.to(gradient.device)[:, None] * gradient[: len(cotangents)]
            found.append(counted.float().sum(1).cpu() / self._weights.count_nonzero())
        return torch.stack(found)

    def beyond(self) -> float:
        """Largest derivative of the first state that counts by a later token's, at any point."""
        first = int(self._weights.nonzero()[0])
        along = torch.zeros_like(self._final)
        along[0, first] = 1
        return max(float(g[0, first + 1 :].abs().max()) for g in self._back(along))

    def _back(self, along: Tensor) -> tuple[Tensor, ...]:
        self._tick()
        return torch.autograd.grad(
            self._final, self._leaves, along,
            retain_graph=True, allow_unused=True, materialize_grads=True,
        )  # fmt: skip


def repeated(tokens: Tokens, rows: int) -> Tokens:
    """One text in several rows, made outside of inference mode for a backward pass to keep."""
    with torch.inference_mode(False):
        return tokens.plain.repeated(rows)


def final_of(
    model: LensModel, tokens: Tokens, points: Sequence[Point], added: Sequence[Tensor]
) -> Tensor:
    """States ``[row, position, d_model]`` after the last block, with something added at points."""
    last = Site("resid_post", model.n_layers - 1)
    found: list[Tensor] = []
    changes = [Change(point.site, "add", value) for point, value in zip(points, added, strict=True)]
    forward(
        model, tokens, [last], lambda _, state: found.append(state),
        logits=None, changes=changes, gradients=True,
    )  # fmt: skip
    return found[0]
