"""Which modules' outputs add up to what a block adds to the residual stream."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, replace
from itertools import combinations

import torch
from torch import Tensor, nn

from layerlens.model.anatomy import Tap
from layerlens.model.families import NORM_WORDS
from layerlens.model.watch import Call

#: How many roundings a sum of a few terms may be off, element by element.
ROUNDINGS = 4


def close(a: Tensor, b: Tensor, dtype: torch.dtype) -> bool:
    """Whether two tensors agree up to a few roundings of the largest value."""
    size = max(b.abs().max().item(), torch.finfo(b.dtype).tiny)
    return (a.float() - b.float()).abs().max().item() / size <= 16 * torch.finfo(dtype).eps


def misfit(total: Tensor, *terms: Tensor) -> float:
    """How far terms are from adding up to ``total``, in roundings of the element itself.

    Judged element by element, because a stream may hold single values thousands of times
    as large as all others, beside which a missing term would not show.
    """
    off = (sum(terms[1:], terms[0]) - total).float().abs()
    size = sum((term.float().abs() for term in terms), total.float().abs())
    coarse = max((torch.finfo(tensor.dtype) for tensor in (total, *terms)), key=lambda f: f.eps)
    return (off / (coarse.eps * size.clamp(min=coarse.tiny))).max().item()


def is_norm(module: nn.Module) -> bool:
    """Whether a module normalises: small, without children, and called a norm."""
    name = type(module).__name__.lower()
    if not any(word in name for word in NORM_WORDS):
        return False
    flat = all(parameter.dim() < 2 for parameter in module.parameters())
    return flat and not list(module.children())


def is_scale(module: nn.Module) -> bool:
    """Whether a module only multiplies each unit with a number that was learned (LayerScale)."""
    parameters = list(module.parameters())
    alone = len(parameters) == 1 and parameters[0].dim() == 1 and not list(module.children())
    return alone and not is_norm(module)


@dataclass(frozen=True, eq=False)
class Scale:
    """What a sublayer's output may be multiplied with before it is added to the stream.

    Attributes
    ----------
    number
        One number for all units.
    vector
        Name of the model's parameter that has one besides for each unit; "" for none.
    values
        That parameter, ``[width]``.
    """

    number: float = 1.0
    vector: str = ""
    values: Tensor | None = None

    def of(self, given: Tensor) -> Tensor:
        """``[rows, width]`` of what a module gives."""
        if self.values is not None:
            return given * (self.values.to(given) * self.number)
        return given if self.number == 1 else given * self.number


@dataclass(frozen=True)
class Part:
    """One sublayer's contribution: a module's output times a scale.

    Where a sublayer is the sum of several modules, ``plus`` holds the others.
    """

    call: Call
    scale: Scale
    plus: tuple[Call, ...] = ()
    misfit: float = 0.0

    @property
    def values(self) -> list[Tensor]:
        """What is added to the stream, module by module, each ``[rows, width]``."""
        return [self.scale.of(call.gave) for call in (self.call, *self.plus)]

    @property
    def tap(self) -> Tap:
        """Where to read it."""
        written = any(call.written for call in (self.call, *self.plus))
        plus = tuple(call.path for call in self.plus)
        number, vector = self.scale.number, self.scale.vector
        return Tap(self.call.path, "output", number, volatile=written, plus=plus, vector=vector)

    def origin(self, inner: Sequence[Call]) -> Call:
        """Find the sublayer itself, where the contribution is its output normed or scaled."""
        call = self.call
        while is_norm(call.module) or is_scale(call.module):
            givers = [
                other
                for other in inner
                if other.left < call.entered
                and other.gave.shape == call.took.shape
                and torch.equal(other.gave, call.took)
            ]
            if not givers:
                return call
            call = min(givers, key=_depth)
        return call


@dataclass(frozen=True)
class Sublayers:
    """How a block's output comes about.

    Of three parts the second looks at the other side of a pair; ``cross_mid`` and ``cross_norm``
    are to it what ``mid`` and ``mid_norm`` are to the first.
    """

    layout: str
    parts: tuple[Part, ...]
    mid: Tap | None = None
    mid_norm: str | None = None
    post_norm: str | None = None
    pre_norm: str | None = None
    gain: float = 1.0
    cross_mid: Tap | None = None
    cross_norm: str | None = None


def _depth(call: Call) -> tuple[int, int]:
    return call.path.count("."), call.entered


def find_sublayers(
    block: Call, inner: Sequence[Call], scales: Sequence[Scale], crossing: bool = False
) -> Sublayers | None:
    """Split what a block adds into its sublayers' outputs.

    Tries, in this order: two sublayers one after the other, one alone, two in parallel;
    with and without a norm on the sums (post-norm blocks) and on the stream that comes in;
    with and without a number that the block keeps and multiplies its output with. Only if
    none of that fits, a second sublayer may be the sum of two modules' outputs.
    """
    outs = [call for call in inner if call.gave.shape == block.took.shape]
    norms = [call for call in outs if is_norm(call.module)]
    starts: list[tuple[Tensor, str | None]] = [(block.took, None)]
    starts += [(call.gave, call.path) for call in norms if torch.equal(call.took, block.took)]
    ends: list[tuple[Tensor, str | None]] = [(block.gave, None)]
    ends += [(call.took, call.path) for call in norms if torch.equal(call.gave, block.gave)]
    single = [kept for kept in block.module.buffers(recurse=False) if kept.numel() == 1]
    gains = dict.fromkeys([1.0, *(kept.item() for kept in single if kept.item())])
    for several in (False, True):
        for start, pre_norm in starts:
            for end, post_norm in reversed(ends):
                fits = []
                for gain in gains:
                    search = _Search(start, end / gain, inner, outs, scales, several, crossing)
                    if (found := search.run()) is not None:
                        fits.append(replace(found, gain=gain))
                if fits:
                    best = min(fits, key=lambda fit: max(part.misfit for part in fit.parts))
                    return replace(best, post_norm=post_norm, pre_norm=pre_norm)
    return None


@dataclass(frozen=True)
class _Search:
    """The search for sublayers between two states of the stream."""

    start: Tensor
    end: Tensor
    inner: Sequence[Call]
    outs: Sequence[Call]
    scales: Sequence[Scale]
    several: bool
    crossing: bool = False

    def run(self) -> Sublayers | None:
        if self.several:
            return self.sequential()
        if self.crossing and (found := self.three()) is not None:
            return found
        return self.sequential() or self.single() or self.parallel()

    def firsts(self) -> Iterator[tuple[Part, Call]]:
        """What may be the first sublayer, each with the call that takes the sum behind it."""
        for call in self.inner:
            middle = call.took
            if middle.shape != self.start.shape or torch.equal(middle, self.start):
                continue
            before = [out for out in self.outs if out.left < call.entered]
            if (first := self.match(middle, self.start, before)) is not None:
                yield first, call

    def three(self) -> Sublayers | None:
        """``mid = start + first; cross = mid + second; end = cross + third``, normed or not."""
        for first, call in self.firsts():
            later = [other for other in self.inner if other.left > call.entered]
            outs = [out for out in self.outs if out.left > call.entered]
            for tap, state, norm in _behind(call):
                rest = replace(self, start=state, inner=later, outs=outs).sequential()
                if rest is not None:
                    return Sublayers(
                        "sequential", (first, *rest.parts), tap, norm,
                        cross_mid=rest.mid, cross_norm=rest.mid_norm,
                    )  # fmt: skip
        return None

    def sequential(self) -> Sublayers | None:
        """``mid = start + first; end = mid + second``, with or without a norm at mid."""
        for first, call in self.firsts():
            after = [out for out in self.outs if out.left > call.entered]
            for tap, state, norm in _behind(call):
                several = self.several and norm is None
                if (second := self.match(self.end, state, after, several)) is not None:
                    return Sublayers("sequential", (first, second), tap, norm)
        return None

    def parallel(self) -> Sublayers | None:
        """``end = start + first + second``."""
        pairs = self.pairs(self.outs)
        parts = [(Part(one, s), Part(two, s)) for s in self.scales for one, two in pairs]
        fits = []
        for one, two in parts:
            wrong = misfit(self.end, self.start, *one.values, *two.values)
            if wrong <= ROUNDINGS and all(
                _needed(self.end, wrong, self.start, *other.values) for other in (one, two)
            ):
                fits.append((wrong, one, two))
        if not fits:
            return None
        best = min(wrong for wrong, _, _ in fits)
        found = next(fit for fit in fits if fit[0] <= 4 * max(best, 0.25))
        both = [replace(part, misfit=found[0]) for part in found[1:]]
        both.sort(key=lambda part: part.call.entered)
        return Sublayers("parallel", tuple(both))

    def single(self) -> Sublayers | None:
        """``end = start + only``."""
        only = self.match(self.end, self.start, self.outs)
        return None if only is None else Sublayers("single", (only,))

    def pairs(self, outs: Iterable[Call]) -> list[tuple[Call, Call]]:
        """Pairs of modules of which none is inside the other, the outermost first."""
        pairs = combinations(sorted(outs, key=_depth), 2)
        return [(a, b) for a, b in pairs if not (_inside(a, b) or _inside(b, a))]

    def match(
        self, total: Tensor, base: Tensor, outs: Sequence[Call], several: bool = False
    ) -> Part | None:
        """Find the outermost module, or pair, whose scaled output is ``total - base``."""
        parts = [Part(call, scale) for call in outs for scale in self.scales]
        if several:
            pairs = self.pairs(outs)
            parts = [Part(one, s, (two,)) for s in self.scales for one, two in pairs]
        fits = []
        for part in parts:
            values = part.values
            wrong = misfit(total, base, *values)
            others = [values[:at] + values[at + 1 :] for at in range(len(values))]
            if wrong <= ROUNDINGS and all(_needed(total, wrong, base, *rest) for rest in others):
                fits.append(replace(part, misfit=wrong))
        return min(fits, key=lambda part: (part.misfit, _depth(part.call)), default=None)


def _behind(call: Call) -> Iterator[tuple[Tap, Tensor, str | None]]:
    """The state that a call takes; of a norm also what it gives, with its path."""
    yield Tap(call.path, "input", volatile=call.took_written), call.took, None
    if is_norm(call.module):
        yield Tap(call.path, "output", volatile=call.written), call.gave, call.path


def _needed(total: Tensor, wrong: float, *rest: Tensor) -> bool:
    """Tell whether a sum is clearly worse without one of its parts."""
    return misfit(total, *rest) > 4 * max(wrong, 1.0)


def _inside(one: Call, two: Call) -> bool:
    return one.path.startswith(two.path + ".")
