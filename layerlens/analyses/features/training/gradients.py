"""Gradients that autograd has not: of few features at once, and through a step."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor
from torch.autograd.function import FunctionCtx
from torch.nn.functional import embedding_bag

BANDWIDTH = 0.05
"""Width of the window around a threshold in which a step has a slope."""


class Chosen(torch.autograd.Function):
    """Pre-activations of a few features for each row, with gradients for these alone.

    ``apply(x, rows, bias, centre, index, value)`` returns ``value`` as it is, ``[n, k]``, and
    passes gradients on to ``rows [m, d]``, ``bias [m]`` and ``centre [d]``, of which it is
    ``(x - centre) . rows[index] + bias[index]``. A product with all ``m`` rows is saved.
    """

    @staticmethod
    def forward(
        ctx: Any,
        x: Tensor,
        rows: Tensor,
        bias: Tensor,
        centre: Tensor,
        index: Tensor,
        value: Tensor,
    ) -> Tensor:
        """Hand on the values, which were computed for the choice."""
        ctx.save_for_backward(x, rows, centre, index)
        return value.clone()

    @staticmethod
    def backward(ctx: Any, slope: Tensor) -> tuple[Tensor | None, ...]:
        """Sum the slopes of each feature over the rows that chose it."""
        x, rows, centre, index = ctx.saved_tensors
        for_bias = rows.new_zeros(len(rows)).index_add_(0, index.flatten(), slope.flatten())
        for_rows = gathered(index, slope, x, len(rows)).addr_(for_bias, centre, alpha=-1)
        return None, for_rows, for_bias, -(for_bias @ rows), None, None


def gathered(index: Tensor, value: Tensor, x: Tensor, number: int) -> Tensor:
    """``[number, d]``: for each feature the sum of ``value [n, k]`` times the rows of ``x [n, d]``.

    Parameters
    ----------
    index
        ``[n, k]``: which feature each value is of.
    """
    order = index.flatten().argsort()
    counts = torch.bincount(index.flatten(), minlength=number)
    ends = counts.cumsum(0)
    # The sum over a bag is what a sparse product with the transpose is, and faster on a CPU.
    found: Tensor = embedding_bag(
        order // index.shape[1], x, ends - counts, per_sample_weights=value.flatten()[order],
        mode="sum",
    )  # fmt: skip
    return found


class Jump(torch.autograd.Function):
    """``pre`` where it exceeds a threshold, else 0; a straight-through slope for the threshold.

    Source: Rajamanoharan et al. (2024), Jumping Ahead: Improving Reconstruction Fidelity with
    JumpReLU Sparse Autoencoders.
    """

    @staticmethod
    def forward(ctx: FunctionCtx, pre: Tensor, threshold: Tensor) -> Tensor:
        """Let pass what exceeds it."""
        ctx.save_for_backward(pre, threshold)
        return pre.relu() * (pre > threshold)

    @staticmethod
    def backward(ctx: Any, slope: Tensor) -> tuple[Tensor, Tensor]:
        """As of the identity for what passed; of a step that is a ramp for the threshold."""
        pre, threshold = ctx.saved_tensors
        near = ((pre - threshold).abs() < BANDWIDTH / 2).to(pre.dtype)
        for_threshold = -(threshold / BANDWIDTH) * near * slope
        return slope * ((pre > threshold) & (pre > 0)), for_threshold.sum(0)


class Step(torch.autograd.Function):
    """1 where ``pre`` exceeds a threshold, else 0; a straight-through slope for the threshold."""

    @staticmethod
    def forward(ctx: FunctionCtx, pre: Tensor, threshold: Tensor) -> Tensor:
        """Count what exceeds it."""
        ctx.save_for_backward(pre, threshold)
        return (pre > threshold).to(pre.dtype)

    @staticmethod
    def backward(ctx: Any, slope: Tensor) -> tuple[None, Tensor]:
        """Of a step that is a ramp."""
        pre, threshold = ctx.saved_tensors
        near = ((pre - threshold).abs() < BANDWIDTH / 2).to(pre.dtype)
        return None, (-(1 / BANDWIDTH) * near * slope).sum(0)
