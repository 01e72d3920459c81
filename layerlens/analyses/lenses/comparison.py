"""How far two lenses are apart in every cell: change of probability, and the divergence."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from layerlens.analyses.answers.divergence import COMPARE_BYTES
from layerlens.analyses.contract.contract import Job
from layerlens.analyses.contract.parts import Where
from layerlens.analyses.lenses.checks import ROUNDING
from layerlens.analyses.lenses.lens import Lens


@dataclass(frozen=True)
class Comparison:
    """Two lenses whose rows are all kept, point by point.

    Parameters
    ----------
    job
        Is told what comes out.
    one, two
        The lenses; the same one, where two of its ways to decode are compared.
    ways
        Which way of each.
    shared
        Ids of the tokens that both vocabularies have, ``[2, n]``; None where they are the same.
    """

    job: Job
    one: Lens
    two: Lens
    ways: tuple[int, int] = (0, 0)
    shared: np.ndarray | None = None

    def run(self) -> float:
        """Compare as many points at once as fit; returns the most negative divergence, negated."""
        one, two = self.one, self.two
        rows = [lens.rows_of(way) for lens, way in zip((one, two), self.ways, strict=True)]
        fit = COMPARE_BYTES // (4 * one.head.width * one.head.work.itemsize)
        size, count = max(1, min(one.head.rows, two.head.rows, fit)), len(one.cells)
        step = max(1, size // count)
        negative = 0.0
        for first in range(0, len(rows[0]), step):
            points = range(first, min(first + step, len(rows[0])))
            a, b = (
                torch.cat([lens.input_of(of[point]) for point in points])
                for lens, of in zip((one, two), rows, strict=True)
            )
            parts = []
            for start in range(0, len(a), size):
                self.job.tick()
                parts.append(self._cells(a[start : start + size], b[start : start + size]))
            change, tracked, kl = (torch.cat(few) for few in zip(*parts, strict=True))
            negative = max(negative, -float(kl.min()))
            self._emit(points, change, tracked, kl.clamp_min(0))
            self.job.progress(points[-1] + 1, len(rows[0]), "difference")
        return negative

    def _emit(self, points: range, change: Tensor, tracked: Tensor, kl: Tensor) -> None:
        count = len(self.one.cells)
        for place, point in enumerate(points):
            here = slice(place * count, (place + 1) * count)
            arrays = {"change": change[here], "kl_between": kl[here]}
            if self.one.tracked:
                arrays["tracked_change"] = tracked[here]
            spread = {
                name: self.one.cells.spread(value.float().cpu().numpy(), float("nan"))
                for name, value in arrays.items()
            }
            where: Where = {**self.one.of_way(self.ways[1]), "point": point}
            self.job.emit(where, spread)

    def _cells(self, a: Tensor, b: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Change of the top token and of tracked ones, and the divergence."""
        mine = self.one.head.logits(a).log_softmax(-1)
        theirs = self.two.head.logits(b).log_softmax(-1).to(mine)
        top = mine.argmax(-1, keepdim=True)
        there, known = self._there(top)
        change = (theirs.gather(-1, there).exp() - mine.gather(-1, top).exp())[:, 0]
        change = change.masked_fill(~known[:, 0], float("nan"))
        tracked = theirs[:, self.two.tracked].exp() - mine[:, self.one.tracked].exp()
        if self.shared is not None:
            ids = torch.from_numpy(self.shared).to(mine.device)
            mine, theirs = mine[:, ids[0]].log_softmax(-1), theirs[:, ids[1]].log_softmax(-1)
        kl = torch.nn.functional.kl_div(theirs, mine, reduction="none", log_target=True).sum(-1)
        return change, tracked, kl

    def _there(self, ids: Tensor) -> tuple[Tensor, Tensor]:
        """Ids of tokens in the other vocabulary, and whether it has them."""
        if self.shared is None:
            return ids, torch.ones_like(ids, dtype=torch.bool)
        table = torch.full((self.one.model.d_vocab,), -1, dtype=torch.int64)
        table[self.shared[0]] = torch.from_numpy(self.shared[1])
        there = table.to(ids.device)[ids]
        return there.clamp_min(0), there >= 0


def with_one(job: Job, lens: Lens, one: int) -> None:
    """Compare every way to decode of a lens with one of them, which is 0 apart from itself."""
    zero = lens.cells.spread(np.zeros(len(lens.cells), np.float32), float("nan"))
    nothing = {"change": zero, "kl_between": zero}
    if lens.tracked:
        nothing["tracked_change"] = np.repeat(zero[..., None], len(lens.tracked), -1)
    for point in range(len(lens.points) + 1):
        job.emit({**lens.of_way(one), "point": point}, nothing)
    others = [way for way in range(len(lens.decoders)) if way != one]
    errors = [Comparison(job, lens, lens, (one, way)).run() for way in others]
    check_negative(job, max(errors, default=0.0))


def check_negative(job: Job, error: float) -> None:
    """Report how far below zero a divergence between two lenses came out."""
    what = "most negative divergence between the two before rounding it to zero (nats)"
    job.check("KL between is not negative", error, ROUNDING, what)
