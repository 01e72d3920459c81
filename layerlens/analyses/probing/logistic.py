"""Many logistic regressions on the same states at once: each fold, label and strength is one.

One after the other, each step of each regression reads all states twice; together they are read
twice for all of them, by one matrix product.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

TOLERANCE = 1e-4
"""Largest gradient of the mean loss at which a solution counts as found, scikit-learn's too."""
STEPS = 1000
"""Most steps."""
MEMORY = 10
"""Steps that the shape of the loss is learned from."""
DECREASE = 1e-4
"""Share of the decrease that a gradient promises, which a step has to keep (Armijo, 1966)."""
HALVINGS = 20
"""Most times that a step is halved."""

Floats = NDArray[np.float64]
Singles = NDArray[np.float32]


@dataclass(frozen=True)
class Planes:
    """Solutions, in the states' own units.

    Attributes
    ----------
    weight, bias
        ``[regression, class or 1, d]`` and ``[regression, class or 1]``.
    gradient
        ``[regression]``: the largest gradient that is left.
    """

    weight: Floats
    bias: Floats
    gradient: Floats


def logistic(
    states: Singles, labels: NDArray[np.int64], taught: NDArray[np.bool_], strength: Floats
) -> Planes:
    """Solve regressions whose weights are held small, each on its part of the states.

    Each is ``LogisticRegression(C=strength)`` behind a ``StandardScaler`` of scikit-learn, fitted
    to ``states[taught]``: the sum of the losses plus half the squared weights over ``C``; for two
    classes one plane, for more a plane each. Solved by L-BFGS (Liu and Nocedal, 1989).

    Parameters
    ----------
    states
        ``[n, d]`` float32.
    labels
        ``[regression, n]``: classes from 0; all of them occur in each taught part.
    taught
        ``[regression, n]``: which states it is fitted to.
    strength
        ``[regression]``: ``C``.

    Examples
    --------
    >>> states = np.array([[-2.0], [-1.0], [1.0], [2.0]], np.float32)
    >>> found = logistic(states, np.array([[0, 0, 1, 1]]), np.ones((1, 4), bool), np.ones(1))
    >>> found.weight.shape, bool(found.weight[0, 0, 0] > 0), bool(found.gradient[0] < 1e-4)
    ((1, 1, 1), True, True)
    """
    loss = _Loss.of(states, labels, taught, strength)
    at, gradient = _descended(loss)
    weight, bias = loss.plane(at)
    return Planes(weight, bias, gradient)


@dataclass
class _Loss:
    """The mean loss of each regression, and its gradient.

    ``states`` are standardised as a whole, so that what is left to each regression (`mean` and
    `scale` of its own part) takes no digits away.
    """

    states: Singles
    target: Singles
    share: Singles
    mean: Floats
    scale: Floats
    hold: Floats
    whole: tuple[Floats, Floats]

    @classmethod
    def of(cls, states: Singles, labels: NDArray[np.int64], taught: NDArray[np.bool_],
           strength: Floats) -> _Loss:  # fmt: skip
        mean, scale = states.mean(0, dtype=np.float64), _scale(states.var(0, dtype=np.float64))
        whole = ((states - mean) / scale).astype(np.float32)
        count = taught.sum(1)
        share = (taught / count[:, None]).astype(np.float32)
        own = (share @ whole).astype(np.float64)
        spread = (share @ whole**2).astype(np.float64) - own**2
        classes = int(labels.max()) + 1
        kept = np.arange(1 if classes == 2 else 0, classes)
        target = (labels[:, None] == kept[:, None]).astype(np.float32)
        return cls(whole, target, share, own, _scale(spread), 1 / (strength * count), (mean, scale))

    def plane(self, at: Floats) -> tuple[Floats, Floats]:
        """Weight and bias in the states' own units; ``at`` is ``[regression, class, d + 1]``."""
        weight, bias = at[..., :-1] / self.scale[:, None], at[..., -1]
        bias = bias - (weight * self.mean[:, None]).sum(-1)
        mean, scale = self.whole
        weight = weight / scale
        return weight, bias - weight @ mean

    def __call__(self, at: Floats, which: NDArray[np.int64]) -> tuple[Floats, Floats]:
        """Loss ``[regression]`` and its gradient, of some of the regressions."""
        scale, mean = self.scale[which][:, None], self.mean[which][:, None]
        weight = at[..., :-1] / scale
        bias = at[..., -1] - (weight * mean).sum(-1)
        rows = weight.reshape(-1, weight.shape[-1]).astype(np.float32)
        logits = (rows @ self.states.T).reshape(*weight.shape[:2], -1)
        logits += bias[..., None].astype(np.float32)
        each, error = _cross_entropy(logits, self.target[which])
        share = self.share[which]
        loss = (each * share).sum(1, dtype=np.float64)
        error *= share[:, None]
        slope = (error.reshape(len(rows), -1) @ self.states).reshape(weight.shape)
        total = error.sum(-1, dtype=np.float64)
        hold = self.hold[which]
        loss += hold / 2 * (at[..., :-1] ** 2).sum((1, 2))
        gradient = np.empty_like(at)
        gradient[..., :-1] = (slope - total[..., None] * mean) / scale
        gradient[..., :-1] += hold[:, None, None] * at[..., :-1]
        gradient[..., -1] = total
        return loss, gradient


def _scale(variance: Floats) -> Floats:
    """Standard deviation, and 1 where there is none to speak of."""
    return np.where(variance > 1e-10, np.sqrt(np.maximum(variance, 0)), 1.0)


def _cross_entropy(logits: Singles, target: Singles) -> tuple[Singles, Singles]:
    """Loss ``[regression, n]`` of each state, and how far each probability is off."""
    if logits.shape[1] == 1:
        low = np.exp(-np.abs(logits))
        each = np.maximum(logits, 0) - target * logits + np.log1p(low)
        likely = np.where(logits >= 0, 1, low) / (1 + low)
        return each[:, 0], likely - target
    logits = logits - logits.max(1, keepdims=True)
    powers = np.exp(logits)
    total = powers.sum(1, keepdims=True)
    each = np.log(total[:, 0]) - (logits * target).sum(1)
    return each, powers / total - target


def _descended(loss: _Loss) -> tuple[Floats, Floats]:
    """The lowest point of each loss, from 0 on, and the largest gradient that is left there."""
    live = np.arange(len(loss.target))
    at = np.zeros((*loss.target.shape[:2], loss.states.shape[1] + 1))
    found, left = at.copy(), np.zeros(len(live))
    value, slope = loss(at, live)
    lower = np.full(len(live), np.inf)
    past = _Past()
    for step in range(STEPS):
        largest = np.abs(slope).max((1, 2))
        found[live], left[live] = at, largest
        # One that no step makes lower is as low as single precision can tell.
        going = (largest > TOLERANCE) & (value < lower)
        if not going.all():
            live, at, value, slope = live[going], at[going], value[going], slope[going]
            past.keep(going)
        if not len(live):
            break
        way = past.way(slope)
        length = np.ones(len(live)) if step else 1 / np.maximum(1, _norm(slope))
        moved, new_value, new_slope = _stepped(loss, live, at, value, slope, way, length)
        past.add(moved - at, new_slope - slope)
        at, lower, value, slope = moved, value, new_value, new_slope
    return found, left


def _norm(x: Floats) -> Floats:
    found: Floats = np.sqrt((x**2).sum((1, 2)))
    return found


def _stepped(
    loss: _Loss, live: NDArray[np.int64], at: Floats, value: Floats, slope: Floats, way: Floats,
    length: Floats,
) -> tuple[Floats, Floats, Floats]:  # fmt: skip
    """Go along `way`, half as far as long as the loss does not fall as promised."""
    promised = DECREASE * (slope * way).sum((1, 2))
    moved = at + length[:, None, None] * way
    lower, new = loss(moved, live)
    for _ in range(HALVINGS):
        high = np.flatnonzero(~(lower <= value + length * promised))
        if not len(high):
            break
        length[high] /= 2
        moved[high] = at[high] + length[high, None, None] * way[high]
        lower[high], new[high] = loss(moved[high], live[high])
    return moved, lower, new


class _Past:
    """The last steps and what they did to the gradient: enough to know the way (L-BFGS)."""

    def __init__(self) -> None:
        self.steps: list[Floats] = []
        self.turns: list[Floats] = []
        self.curved: list[Floats] = []

    def keep(self, which: NDArray[np.bool_]) -> None:
        """Forget regressions that are done."""
        for past in (self.steps, self.turns, self.curved):
            past[:] = [each[which] for each in past]

    def add(self, step: Floats, turn: Floats) -> None:
        """Remember a step; of a regression that stood still it says nothing."""
        curved = (step * turn).sum((1, 2))
        share = np.where(curved > 0, 1 / np.maximum(curved, 1e-300), 0)
        for past, new in ((self.steps, step), (self.turns, turn), (self.curved, share)):
            past.append(new)
            del past[:-MEMORY]

    def way(self, slope: Floats) -> Floats:
        """Downhill, as far as the loss is curved (the two loops of Nocedal, 1980)."""
        way = -slope
        kept = []
        for step, turn, curved in zip(self.steps[::-1], self.turns[::-1], self.curved[::-1],
                                      strict=True):  # fmt: skip
            part = curved * (step * way).sum((1, 2))
            way = way - part[:, None, None] * turn
            kept.append(part)
        if self.steps:
            size = (self.turns[-1] ** 2).sum((1, 2)) * self.curved[-1]
            way = way / np.where(size > 0, size, 1)[:, None, None]
        for step, turn, curved, part in zip(self.steps, self.turns, self.curved, kept[::-1],
                                            strict=True):  # fmt: skip
            back = curved * (turn * way).sum((1, 2))
            way = way + (part - back)[:, None, None] * step
        return way
