"""How distributions of a final and an earlier layer are compared and put together.

All take log probabilities ``[n, vocabulary]`` float32.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor

from layerlens.errors import InputError

METHODS = ("dola", "fused", "difference")
VARIANTS = ("paper", "reference")

FLOOR = -1e3
"""Stands for the log probability of what an earlier layer rules out, so that no score is NaN."""


def jensen_shannon(p: Tensor, q: Tensor) -> Tensor:
    """Divergence ``[n]`` in nats, between 0 and ln 2.

    Examples
    --------
    >>> p, q = torch.tensor([[0.5, 0.5]]).log(), torch.tensor([[1.0, 0.0]]).log()
    >>> round(float(jensen_shannon(p, p)), 4), round(float(jensen_shannon(p, q)), 4)
    (0.0, 0.2158)
    """
    middle = torch.logaddexp(p, q) - math.log(2)
    return (_kl(p, middle) + _kl(q, middle)) / 2


def reversed_jensen_shannon(p: Tensor, q: Tensor) -> Tensor:
    """The same with each divergence from the mean the other way round, as DoLa's code has it."""
    middle = torch.logaddexp(p, q) - math.log(2)
    return (_kl(middle, p) + _kl(middle, q)) / 2


def _kl(p: Tensor, q: Tensor) -> Tensor:
    """``KL(p || q)``; what has no probability under p adds nothing."""
    return torch.where(p > -math.inf, p.exp() * (p - q), 0.0).sum(-1)


DIVERGENCES = {"paper": jensen_shannon, "reference": reversed_jensen_shannon}


def plausible(final: Tensor, alpha: float) -> Tensor:
    """Tokens with at least ``alpha`` of the best one's probability."""
    return final >= final.amax(-1, keepdim=True) + math.log(alpha)


def scores(
    method: str,
    final: Tensor,
    early: Tensor,
    alpha: float,
    weight: float,
    amateur: tuple[Tensor, Tensor] | None = None,
    amateur_weight: float = 0.0,
) -> Tensor:
    """What the next token is chosen by; minus infinity for tokens that are not plausible.

    Parameters
    ----------
    method
        ``dola``: ``final - weight * early``; ``fused``, ``difference``: ``final + weight * early``.
    final, early
        Of the model itself.
    alpha, weight
        Options of ``ll.contrast_layers``.
    amateur
        The same two of the amateur; then each is ``(1 + b) * own - b * amateur``.
    amateur_weight
        The ``b`` of that.

    Examples
    --------
    >>> final = torch.tensor([[0.6, 0.4]]).log()
    >>> early = torch.tensor([[0.9, 0.1]]).log()
    >>> int(scores("dola", final, early, 0.1, 1.0).argmax())
    1
    """
    kept = plausible(final, alpha)
    early = early.clamp_min(FLOOR)
    high = final
    if amateur is not None:
        theirs = [one.clamp_min(FLOOR) for one in amateur]
        high = (1 + amateur_weight) * final - amateur_weight * theirs[0]
        early = (1 + amateur_weight) * early - amateur_weight * theirs[1]
    score = high - weight * early if method == "dola" else high + weight * early
    return torch.where(kept, score, -math.inf)


def require(method: str, variant: str, alpha: float, **weights: float) -> None:
    """Refuse options that are none.

    Raises
    ------
    InputError
        Says which, and what was expected.
    """
    for name, value, known in (("method", method, METHODS), ("variant", variant, VARIANTS)):
        if value not in known:
            raise InputError(f"{name} is {value!r}; expected {', '.join(known)}.")
    if not 0 < alpha <= 1:
        raise InputError(f"alpha is {alpha!r}; expected a number above 0, at most 1.")
    for name, weight in weights.items():
        if not 0 <= weight < math.inf:
            raise InputError(f"{name} is {weight!r}; expected a number from 0.")
