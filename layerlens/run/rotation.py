"""Where q and k are before rotary embeddings, found by watching a small pass.

At the first position rotary embeddings turn nothing, so what the scores are made of stands there
among the outputs of the attention's own modules as it is (or among the inputs of a norm that gave
it). Which columns of which module these are is found there, and held against the lengths at the
other positions, which a rotation keeps.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from layerlens.model.anatomy import HeadColumns, Tap
from layerlens.model.sums import is_norm
from layerlens.model.watch import Call

ROUNDINGS = 4
"""How many roundings of the largest entry a vector may be off."""


def turns(scored: Tensor) -> bool:
    """Whether q or k of equal inputs, ``[position, head, width]``, depend on the position."""
    scored = scored.float()
    limit = 8 * ROUNDINGS * torch.finfo(scored.dtype).eps * scored[0].abs().max()
    return bool((scored - scored[:1]).abs().max() > limit)


def find_before(calls: Sequence[Call], scored: Tensor) -> Tap | None:
    """Find where q or k is given before it is rotated, and before any norm on it.

    Parameters
    ----------
    calls
        Those inside one attention, in the order in which they were entered.
    scored
        ``[position, head, width]``, what the scores were made of in the same pass.
    """
    plain = [call for call in calls if not is_norm(call.module)]
    found = _place(plain, scored[0], scored)
    for norm in calls:
        if found is None and is_norm(norm.module):
            before = _before_norm(norm, scored[0])
            if before is not None:
                found = _place([call for call in plain if call.left < norm.entered], before, None)
    return found


def _place(calls: Sequence[Call], first: Tensor, scored: Tensor | None) -> Tap | None:
    """Find the outermost module that gives ``[head, width]`` at the first position."""
    for call in calls:
        if call.gave.dim() != 2 or not call.gave.numel() or call.gave.shape[1] < first.numel():
            continue
        starts = _starts(call.gave[0], first)
        if starts is None:
            continue
        columns = HeadColumns(starts, first.shape[1])
        if scored is None or _as_long(columns.read(call.gave), scored):
            return Tap(call.path, "output", volatile=call.written, columns=columns)
    return None


def _starts(row: Tensor, heads: Tensor) -> tuple[int, ...] | None:
    """First column of each head among those of a row; None where they are not all there.

    Some families take the entries of a head in another order before they rotate them, and some
    scale the rotary tables, so order and scale are the last to be tried.
    """
    width = heads.shape[1]
    step = width if len(row) % width == 0 else 1
    windows, wanted = row.float().unfold(0, width, step), heads.float()
    limit = ROUNDINGS * torch.finfo(row.dtype).eps
    scale = wanted.norm(dim=1)[:, None] / windows.norm(dim=1).clamp(min=1e-30)
    alike = torch.ones_like(scale)
    for a, b, by in (
        (windows, wanted, alike),
        (windows, wanted, scale),
        (windows.sort(1).values, wanted.sort(1).values, scale),
    ):
        off = (a[None] * by[..., None] - b[:, None]).abs().amax(-1)
        off = off / b.abs().amax(1).clamp(min=1e-30)[:, None]
        best = off.argmin(1)
        used = by.gather(1, best[:, None])
        same = bool((used.max() - used.min()) <= 8 * limit * used.max())
        if bool((off.amin(1) <= limit).all()) and len(set(best.tolist())) == len(best) and same:
            return tuple(int(place) * step for place in best)
    return None


def _as_long(before: Tensor, scored: Tensor) -> bool:
    """Whether vectors ``[position, head, width]`` differ in length by one factor a head only."""
    ratio = scored.float().norm(dim=-1) / before.float().norm(dim=-1).clamp(min=1e-30)
    limit = 8 * ROUNDINGS * torch.finfo(before.dtype).eps
    return bool(((ratio - ratio[:1]).abs() <= limit * ratio[:1]).all())


def _before_norm(norm: Call, heads: Tensor) -> Tensor | None:
    """What a norm was given for ``[head, width]`` of what it gave; None where it gave none."""
    width = heads.shape[1]
    if norm.gave.shape != norm.took.shape or not norm.gave.numel() or norm.gave.numel() % width:
        return None
    given, taken = norm.gave.reshape(-1, width).float(), norm.took.reshape(-1, width)
    limit = ROUNDINGS * torch.finfo(norm.gave.dtype).eps
    wanted = heads.float()
    for a, b in ((given, wanted), (given.sort(1).values, wanted.sort(1).values)):
        off = (a[None] - b[:, None]).abs().amax(-1) / b.abs().amax(1).clamp(min=1e-30)[:, None]
        if bool((off.amin(1) <= limit).all()):
            return taken[off.argmin(1)]
    return None
