"""Every part of a model removed from the run of one text, one at a time."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from layerlens.analyses.contract.contract import Job
from layerlens.analyses.removal.estimated_removals import RemovalEstimate
from layerlens.analyses.removal.removable_parts import Units
from layerlens.analyses.removal.replacements import Output
from layerlens.analyses.sweeps.estimates import Agreement
from layerlens.analyses.sweeps.over_bases import Average, Sampled
from layerlens.run.cell import Cell

if TYPE_CHECKING:
    from layerlens.analyses.answers.answer_metric import Metric
    from layerlens.run.base import Base


class Removal:
    """Every unit removed from the run of one text."""

    def __init__(
        self,
        job: Job,
        units: Units,
        base: Base,
        measure: Metric,
        where: Sequence[int],
        share: tuple[int, int],
        agreement: Agreement | None,
    ) -> None:
        self.job, self.units, self.base, self.measure = job, units, base, measure
        self.where, self.share = where, share
        self.value = float(measure(base.final.unsqueeze(0))[0])
        self.average = Average(self._arrays)
        self.passes, self.method = 1.0, ""
        self.agreement = agreement
        self.estimate = RemovalEstimate(units, base, measure, where) if agreement else None
        self._guessed: list[np.ndarray] = []

    def _arrays(self, mean: np.ndarray, error: np.ndarray) -> dict[str, np.ndarray]:
        return {"effect": mean + 0.0, "metric": mean + self.value, "standard_error": error}

    def run(self, outputs: Iterator[Output], draws: int, verify: int, **how: Any) -> None:
        """Remove every unit, once for each draw."""
        row, texts = self.share
        for draw, output in enumerate(outputs):
            sweep = Sampled(
                self.job,
                self.units.model,
                self.base,
                self.measure,
                self.average,
                lead={"batch": row} if self.job.batched else {},
                share=(row * draws + draw, texts * draws),
                done=self.agreement.note if self.agreement else None,
                **how,
            )
            values = {layer: output(layer) for layer in self.units.layers}
            for part in self.units:
                change = self.units.change(part, self.base, values[part.layer], self.where)
                sweep.add(Cell((change,)), part.place)
            own = sweep.add(self._nothing(), None)
            for gap in self.units.gaps() if draw == 0 else ():
                sweep.fill(gap, np.nan)
            changes = self._estimated(output, draw)
            sweep.run(None if changes is None else [*changes, 0.0])
            if draw == 0:
                self._check(sweep, own, verify)
            self.passes += sweep.passes
            self.method = sweep.method
        self.passes += self.estimate.passes if self.estimate else 0

    def _estimated(self, output: Output, draw: int) -> np.ndarray | None:
        """Estimate every unit, and push the mean over the draws so far; None without estimates."""
        if self.agreement is None or self.estimate is None:
            return None
        if self.estimate.lack:
            self.job.note(no_estimate=self.estimate.lack)
            self.agreement.begin(None, again=draw > 0)
            return None
        self.job.tick()
        self._guessed.append(self.estimate.changes(output))
        mean = np.mean(self._guessed, axis=0)
        assert self.job.parts is not None
        grid = np.full([self.job.parts.sizes[axis] for axis in ("layer", *self.units.axis)], np.nan)
        for unit, change in zip(self.units, mean, strict=True):
            grid[tuple(unit.place.values())] = change
        lead = {"batch": self.share[0]} if self.job.batched else {}
        self.job.emit(lead, {"estimate": grid.astype(np.float32)})
        self.agreement.begin(self._guessed[-1], again=draw > 0)
        return self._guessed[-1]

    def _nothing(self) -> Cell:
        """A cell in which a unit keeps its own output."""
        part = next(iter(self.units))
        value = self.units.output(self.base.trace, part.layer)[list(self.where)]
        return Cell((self.units.change(part, self.base, value, self.where),))

    def _check(self, sweep: Sampled, own: int, verify: int) -> None:
        error = abs(float(sweep.values[own]) - self.value)
        text = f" of text {self.share[0]}" if self.job.batched else ""
        what = "metric with the first part replaced by its own output, less the plain one"
        self.job.check(f"own output changes nothing{text}", error, sweep.tolerance, what)
        sweep.verify(verify)
