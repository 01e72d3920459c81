"""What is put in place of the output of a part that is removed."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from torch import Tensor

from layerlens.analyses.contract.contract import Job
from layerlens.analyses.removal.removable_parts import Units
from layerlens.analyses.texts.text_pair import row_of
from layerlens.errors import InputError
from layerlens.model.sites import Site
from layerlens.run.base import record_base
from layerlens.run.forward import forward

if TYPE_CHECKING:
    from layerlens.model.text import Tokens

Output = Callable[[int], Tensor | float]
"""From a layer to what takes the place of its units' outputs."""


class Replacement:
    """What is put in place of the units' outputs.

    Attributes
    ----------
    words
        What it is.
    draws
        How many different ones there are.
    passes
        Passes used so far.
    """

    def __init__(
        self,
        job: Job,
        units: Units,
        texts: list[Tokens],
        reference: Any,
        how: str,
        by_position: bool,
        draws: int,
        seed: int,
    ) -> None:
        self.units, self.how, self.texts, self.given = units, how, texts, reference is not None
        if reference is not None:
            others = job.tokens(reference)
            texts = [row_of(others, row) for row in range(len(others.ids))]
        self.references = texts
        self.draws = draws if how == "resample" else 1
        self.passes = 0
        self._random = np.random.default_rng(seed)
        self._totals = Totals(units, by_position)
        if how == "mean":
            for text in texts:
                job.tick()
                self._totals.add(text)
                self.passes += 1
        self.words = self._words(by_position)

    def _words(self, by_position: bool) -> str:
        count = len(self.references)
        who = f"{count} reference texts" if self.given else f"the {count} texts given"
        if self.how == "zero":
            return "zeros"
        alone = count == 1 and not self.given
        if alone and (by_position or self.how == "resample"):
            raise InputError(
                "One text alone has nothing to be compared with: give texts with reference=."
            )
        if self.how == "resample":
            return f"the output in a text drawn from {who}"
        if alone:
            return "the mean over the positions of the text itself"
        return f"the mean over {who}, " + ("at each position" if by_position else "all positions")

    def outputs(self, row: int, where: Sequence[int]) -> Iterator[Output]:
        """For each draw, what takes the place of each layer's outputs in one text."""
        if self.how == "zero":
            yield lambda layer: 0.0
        elif self.how == "mean":
            yield lambda layer: self._totals.mean(layer, where)
        else:
            others = [i for i in range(len(self.references)) if self.given or i != row]
            for _ in range(self.draws):
                yield self._drawn(self.references[self._random.choice(others)], where)

    def _drawn(self, text: Tokens, where: Sequence[int]) -> Output:
        trace = record_base(self.units.model, text, self.units.sites()).trace
        self.passes += 1
        length = text.ids.shape[1]
        spare = self._random.integers(length, size=len(where))
        columns = [at if at < length else int(any_) for at, any_ in zip(where, spare, strict=True)]
        return lambda layer: self.units.output(trace, layer)[columns]


class Totals:
    """Sums of the units' outputs over texts, for means.

    Parameters
    ----------
    by_position
        Keep a sum for each position, not one over all of them.
    """

    def __init__(self, units: Units, by_position: bool) -> None:
        self._units, self._by_position = units, by_position
        self._sums: dict[int, Tensor] = {}
        self._counts: dict[int, Tensor] = {}

    def add(self, tokens: Tokens) -> None:
        """Run one text without padding and add what its units put out."""
        held: dict[Site, Tensor] = {}

        def keep(site: Site, value: Tensor) -> None:
            held[site] = value.clone()
            if site.kind == self._units.kind:
                self._put(site.block, self._units.output(held, site.block).double())
                held.clear()

        forward(self._units.model, tokens, self._units.sites(), keep, logits=None)

    def _put(self, layer: int, value: Tensor) -> None:
        count = torch.ones(len(value), *[1] * (value.dim() - 1), dtype=torch.float64)
        if not self._by_position:
            value, count = value.sum(0, keepdim=True), count.sum(0, keepdim=True)
        if layer not in self._sums:
            self._sums[layer], self._counts[layer] = value, count.to(value.device)
            return
        length = max(len(value), len(self._sums[layer]))
        self._sums[layer] = _longer(self._sums[layer], length) + _longer(value, length)
        count = _longer(count.to(value.device), length)
        self._counts[layer] = _longer(self._counts[layer], length) + count

    def mean(self, layer: int, where: Sequence[int]) -> Tensor:
        """Mean output at these positions, ``[position or 1, (unit,) width]``."""
        mean = self._sums[layer] / self._counts[layer]
        if not self._by_position:
            return mean
        if max(where) >= len(mean):
            raise InputError(
                f"No reference text reaches position {max(where)}: give longer ones, or leave out "
                "by_position."
            )
        return mean[list(where)]


def _longer(value: Tensor, length: int) -> Tensor:
    """The same with zeros after its end."""
    if len(value) == length:
        return value
    return torch.cat([value, value.new_zeros(length - len(value), *value.shape[1:])])
