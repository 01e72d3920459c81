"""Steps of gradient descent on the divergence that a lens is judged by."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from layerlens.analyses.lenses.fitting.affine import AffineMap, Moments, low_rank, mean_shift

if TYPE_CHECKING:
    from layerlens.model.lensmodel import LensModel

STEP_TOKENS = 256
"""Tokens of one step."""
FROM_RIDGE, FROM_FACTORS = 3e-4, 1e-3
"""Learning rates of a whole matrix, which begins at the ridge map, and of two thin ones."""
BIAS_RATE = 1e-2
"""Learning rate of the bias, as a share of the size of an entry of a final state."""
CLIP = 1.0
"""Largest norm of a gradient."""


@dataclass(frozen=True)
class Lesson:
    """What a map learns from.

    Attributes
    ----------
    model
        Whose head reads.
    states, final
        ``[n, d_model]`` of the same tokens, at the point and after the last block.
    order
        ``[steps, tokens of a step]`` int64: which of them are seen in each step.
    chunk
        Tokens whose logits are held at once.
    tick
        Called before each chunk; may raise to stop.
    stepped
        Called after each step.
    """

    model: LensModel
    states: Tensor
    final: Tensor
    order: Tensor
    chunk: int
    tick: Callable[[], None]
    stepped: Callable[[], None]


def order_of(tokens: int, steps: int, seed: int) -> Tensor:
    """``[steps, STEP_TOKENS]`` or fewer: shuffled tokens, none twice before all were seen."""
    generator = torch.Generator().manual_seed(seed)
    size = min(STEP_TOKENS, tokens)
    rounds = -(-steps * size // tokens)
    drawn = torch.cat([torch.randperm(tokens, generator=generator) for _ in range(max(1, rounds))])
    return drawn[: steps * size].view(steps, size)


Start = tuple[Tensor, ...]
"""What is learned, float32: the factors of the matrix (one, two, or none), and then the bias."""


def start_of(moments: Moments, ridge: AffineMap, rank: int | None) -> Start:
    """Where steps begin.

    Parameters
    ----------
    moments
        Sums over the tokens that the maps come from.
    ridge
        Where a whole matrix begins.
    rank
        Of the matrix: None for a whole one, 0 for a bias alone, which begins at the mean shift.
    """
    if rank == 0:
        bias = mean_shift(moments).bias
        assert bias is not None
        return (bias,)
    if rank is not None:
        return low_rank(moments, ridge, rank)
    assert ridge.weight is not None
    assert ridge.bias is not None
    return ridge.weight, ridge.bias


def map_of(learned: Sequence[Tensor]) -> AffineMap:
    """The map that factors and a bias make."""
    *factors, bias = learned
    weight = factors[0] @ factors[1] if len(factors) == 2 else next(iter(factors), None)
    return AffineMap(weight, bias)


def train(lesson: Lesson, start: Start) -> AffineMap:
    """Improve a map by Adam on the mean KL divergence of its answer from the final one."""
    with lesson.model.running(gradients=True):
        learned = [part.clone().requires_grad_() for part in start]
        size = float(lesson.final.float().square().mean().sqrt())
        rate = FROM_RIDGE if len(start) == 2 else FROM_FACTORS
        groups = [
            {"params": learned[:-1], "lr": rate},
            {"params": learned[-1:], "lr": BIAS_RATE * size},
        ]
        optimiser = torch.optim.Adam([group for group in groups if group["params"]])
        steps = len(lesson.order)
        decay = torch.optim.lr_scheduler.LambdaLR(optimiser, lambda step: 1 - step / steps)
        for rows in lesson.order:
            _step(lesson, rows, learned)
            torch.nn.utils.clip_grad_norm_(learned, CLIP)
            optimiser.step()
            decay.step()
            lesson.stepped()
    return map_of([part.detach() for part in learned])


def _step(lesson: Lesson, rows: Tensor, learned: list[Tensor]) -> None:
    """Put the gradient of the mean divergence of some tokens beside what is learned."""
    total = [torch.zeros_like(part) for part in learned]
    model, device = lesson.model, lesson.states.device
    for here in rows.to(device).split(lesson.chunk):
        lesson.tick()
        with torch.no_grad():
            log_final = model.unembed(lesson.final[here]).log_softmax(-1)
        log_lens = model.head(map_of(learned).decode(model, lesson.states[here])).log_softmax(-1)
        difference = torch.where(log_final.isfinite(), log_final - log_lens, 0.0)
        loss = (log_final.exp() * difference).sum() / len(rows)
        for one, gradient in zip(total, torch.autograd.grad(loss, learned), strict=True):
            one.add_(gradient)
    for part, one in zip(learned, total, strict=True):
        part.grad = one
