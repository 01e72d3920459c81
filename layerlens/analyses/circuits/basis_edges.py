"""How much of each coordinate of a state comes from each coordinate of the state before."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import torch
from torch import Tensor

from layerlens.analyses.circuits.basis import Basis, Floats
from layerlens.analyses.circuits.basis_states import BasisBatch, BasisStates, without


def passed(
    states: BasisStates,
    point: int,
    bases: tuple[Basis, Basis],
    top: int,
    draws: int,
    seed: int,
    tick: Callable[[], None],
) -> Floats:
    """Variance that each coordinate gets from each one at the point before, by its own.

    Parameters
    ----------
    point
        The lower one.
    bases
        At this point and at the next.
    top
        How many coordinates of both, the strongest.
    draws
        Random signs over the tokens of the next point; each takes a backward pass for each of its
        coordinates.

    Returns
    -------
    ndarray
        ``[top, top]``, of the next point's coordinate ``i`` and of this point's ``j``: the mean
        over tokens of the squared derivatives of ``i`` by ``j`` at the same and all earlier tokens,
        times the variance of ``j`` by that of ``i``. Where all is linear and tokens vary
        independently, those of all ``j`` add up to 1.
    """
    basis, after = bases
    generator = np.random.default_rng((seed, point, 2))
    total, count = np.zeros((top, top)), 0
    for batch in states.batches:
        leaf = batch.states[point].detach().clone().requires_grad_()
        value = _coordinates(states, batch, point + 1, after, top, states.ahead(batch, point, leaf))
        where = states.where(batch, point)
        write = torch.from_numpy(basis.write[:top]).to(value)
        for i in range(top):
            for draw in range(draws):
                tick()
                signs = generator.choice(np.array((-1, 1), dtype=np.float32), len(value))
                more = (i, draw) != (top - 1, draws - 1)
                (found,) = torch.autograd.grad(
                    value[:, i], leaf, torch.from_numpy(signs).to(value), retain_graph=more
                )
                by = found[where].float() @ write.T
                total[i] += by.square().sum(0).double().cpu().numpy()
        count += len(value)
    sizes = basis.strength[:top] / after.strength[:top, None]
    return np.asarray(total / (draws * count) * sizes)


@torch.no_grad()
def really_passed(
    states: BasisStates, point: int, bases: tuple[Basis, Basis | None], top: int
) -> Floats:
    """How far each coordinate really moves when one before is at its mean, all else as it is.

    Returns
    -------
    ndarray
        ``[top, top]`` as of :func:`passed`: mean square of the way, of the variance of ``i``. From
        the last point ``[1, top]``: of all that the logits change, less their mean.
    """
    basis, after = bases
    moved: list[Floats] = []
    count = sum(int(states.where(batch, _next(states, point)).sum()) for batch in states.batches)
    for number in range(top):
        change, total = without(basis, number), np.zeros(top if after else 1)
        for batch in states.batches:
            where, state = states.where(batch, point), batch.states[point].clone()
            state[where] = change(state[where].float()).to(state.dtype)
            rows = [_above(states, batch, point, after, top, one)
                    for one in (state, batch.states[point])]  # fmt: skip
            off = (rows[0] - rows[1]).square().double().sum(0)
            total += (off if after else off.sum()[None]).cpu().numpy()
        moved.append(total / count)
    own = after.strength[:top] if after else np.array([basis.strength.sum()])
    return np.stack(moved, 1) / own[:, None]


def _next(states: BasisStates, point: int) -> int:
    """The point above; the last stands for the logits, too."""
    return min(point + 1, states.points - 1)


def _above(
    states: BasisStates, batch: BasisBatch, point: int, after: Basis | None, top: int, state: Tensor
) -> Tensor:
    """Coordinates ``[n, top]`` above a state, or logits less their mean."""
    if after is not None:
        above = states.ahead(batch, point, state)
        return _coordinates(states, batch, point + 1, after, top, above)
    logits = states.model.unembed(state[states.where(batch, point)]).float()
    return logits - logits.mean(-1, keepdim=True)


def _coordinates(
    states: BasisStates, batch: BasisBatch, point: int, basis: Basis, top: int, state: Tensor
) -> Tensor:
    """The strongest coordinates ``[n, top]`` of states that count, up to their mean."""
    rows = state[states.where(batch, point)].float()
    return rows @ torch.from_numpy(basis.read[:, :top]).to(rows)
