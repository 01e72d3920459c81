"""Which modules' outputs add up to what a block adds to the residual stream."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from itertools import combinations

import torch
from torch import Tensor, nn

from layerlens.model.anatomy import Tap
from layerlens.model.families import NORM_WORDS
from layerlens.model.watch import Call


def close(a: Tensor, b: Tensor, dtype: torch.dtype) -> bool:
    """Whether two tensors agree up to a few roundings of ``dtype``."""
    return error(a, b) <= 16 * torch.finfo(dtype).eps


def error(a: Tensor, b: Tensor) -> float:
    """Largest difference, relative to the largest value."""
    size = max(b.abs().max().item(), torch.finfo(b.dtype).tiny)
    return (a.float() - b.float()).abs().max().item() / size


def is_norm(module: nn.Module) -> bool:
    """Whether a module normalises: small, without children, and called a norm."""
    name = type(module).__name__.lower()
    flat = all(parameter.dim() < 2 for parameter in module.parameters())
    return flat and not list(module.children()) and any(word in name for word in NORM_WORDS)


@dataclass(frozen=True)
class Part:
    """One sublayer's contribution: a module's output times a scale."""

    call: Call
    scale: float

    @property
    def value(self) -> Tensor:
        """``[rows, width]``: what is added to the stream."""
        return self.call.gave if self.scale == 1 else self.call.gave * self.scale

    @property
    def tap(self) -> Tap:
        """Where to read it."""
        return Tap(self.call.path, "output", self.scale, volatile=self.call.written)

    def origin(self, inner: Sequence[Call]) -> Call:
        """The sublayer itself, where the contribution is a norm of its output."""
        call = self.call
        while is_norm(call.module):
            givers = [
                other
                for other in inner
                if other.gave is not None
                and other.left < call.entered
                and other.gave.shape == call.took.shape
                and torch.equal(other.gave, call.took)
            ]
            if not givers:
                return call
            call = min(givers, key=_depth)
        return call


@dataclass(frozen=True)
class Sublayers:
    """How a block's output comes about."""

    layout: str
    parts: tuple[Part, ...]
    mid: Tap | None = None
    mid_norm: str | None = None
    post_norm: str | None = None
    pre_norm: str | None = None


def _depth(call: Call) -> tuple[int, int]:
    return call.path.count("."), call.entered


def find_sublayers(
    block: Call, inner: Sequence[Call], scales: Sequence[float]
) -> Sublayers | None:
    """Split what a block adds into its sublayers' outputs.

    Tries, in this order: two sublayers one after the other, one alone, two in parallel;
    with and without a norm on the sums (post-norm blocks) and on the stream that comes in.
    """
    outs = [call for call in inner if call.gave is not None and call.gave.shape == block.took.shape]
    norms = [call for call in outs if is_norm(call.module)]
    starts = [(block.took, None)]
    starts += [(call.gave, call.path) for call in norms if torch.equal(call.took, block.took)]
    ends = [(block.gave, None)]
    ends += [(call.took, call.path) for call in norms if torch.equal(call.gave, block.gave)]
    for start, pre_norm in starts:
        for end, post_norm in reversed(ends):
            for search in (_sequential, _single, _parallel):
                found = search(start, end, inner, outs, scales)
                if found is not None:
                    return Sublayers(*found, post_norm=post_norm, pre_norm=pre_norm)
    return None


def _match(total: Tensor, base: Tensor, outs: Iterable[Call], scales: Sequence[float]) -> Part | None:
    """The outermost module whose scaled output is ``total - base``."""
    fits = []
    for call in outs:
        for scale in scales:
            part = Part(call, scale)
            wrong = error(base + part.value, total)
            if wrong <= 16 * torch.finfo(total.dtype).eps and _needed(part, base, total, wrong):
                fits.append((wrong, part))
    if not fits:
        return None
    best = min(wrong for wrong, _ in fits)
    return min((part for wrong, part in fits if wrong <= best), key=lambda part: _depth(part.call))


def _needed(part: Part, base: Tensor, total: Tensor, wrong: float) -> bool:
    """A part must explain something: leaving it out must be clearly worse."""
    return error(base, total) > 4 * max(wrong, torch.finfo(total.dtype).eps)


def _sequential(
    start: Tensor,
    end: Tensor,
    inner: Sequence[Call],
    outs: Sequence[Call],
    scales: Sequence[float],
) -> tuple | None:
    """``mid = start + first; end = mid + second``, with or without a norm at mid."""
    for call in inner:
        middle = call.took
        if middle is None or middle.shape != start.shape or torch.equal(middle, start):
            continue
        before = [out for out in outs if out.left < call.entered]
        first = _match(middle, start, before, scales)
        if first is None:
            continue
        after = [out for out in outs if out.left > call.entered]
        second = _match(end, middle, after, scales)
        if second is not None:
            tap = Tap(call.path, "input", volatile=call.took_written)
            return "sequential", (first, second), tap, None
        if is_norm(call.module) and (second := _match(end, call.gave, after, scales)):
            tap = Tap(call.path, "output", volatile=call.written)
            return "sequential", (first, second), tap, call.path
    return None


def _parallel(
    start: Tensor,
    end: Tensor,
    inner: Sequence[Call],
    outs: Sequence[Call],
    scales: Sequence[float],
) -> tuple | None:
    """``end = start + first + second``."""
    best = None
    for scale in scales:
        for one, two in combinations(sorted(outs, key=_depth), 2):
            parts = tuple(sorted((Part(one, scale), Part(two, scale)), key=lambda p: p.call.entered))
            wrong = error(start + parts[0].value + parts[1].value, end)
            apart = not (_inside(one, two) or _inside(two, one))
            good = wrong <= 16 * torch.finfo(end.dtype).eps
            if good and apart and (best is None or wrong < best[0] / 4):
                best = wrong, parts
    return None if best is None else ("parallel", best[1], None, None)


def _inside(one: Call, two: Call) -> bool:
    return one.path.startswith(two.path + ".")


def _single(
    start: Tensor,
    end: Tensor,
    inner: Sequence[Call],
    outs: Sequence[Call],
    scales: Sequence[float],
) -> tuple | None:
    """``end = start + only``."""
    only = _match(end, start, outs, scales)
    return None if only is None else ("single", (only,), None, None)
