"""Two runs for each pair of texts, the metric between them, and the grid that they fill."""

from __future__ import annotations

import json
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from layerlens.analyses.answers.answer_metric import Metric, make_metric
from layerlens.analyses.contract.contract import Job
from layerlens.analyses.patching.grid import Part, PatchGrid
from layerlens.analyses.texts.text_pair import Pair
from layerlens.errors import InputError
from layerlens.model.sites import KEY_VALUE, Site
from layerlens.run.base import Base
from layerlens.run.together import record_bases

if TYPE_CHECKING:
    from layerlens.model.lensmodel import LensModel

NO_DIFFERENCE = 1e-6
"""Of the metric's size: what separates two runs that answer differently at all."""


IN_METRIC_UNITS = {"metric", "metric_mean", "metric_low", "metric_high", "attribution", "patched"}
"""Variables that have the metric's units."""


class PatchRuns:
    """Both runs of every pair, and where in the result their numbers go.

    Parameters
    ----------
    job, model
        As the analysis got them.
    grid
        What is patched.
    pairs
        One for each pair of texts.
    positions
        Which positions of the run that is patched; as ``model.positions`` takes them.
    also
        Sites to record besides those of the grid.

    Attributes
    ----------
    where
        For each pair, the positions.
    axis
        All of them, the values of the position axis.
    runs
        For each pair, the run that is patched and the one that activations are taken from.
    metrics, ends
        For each pair, what is measured, and its values in the clean and the corrupted run.
    passes
        Passes used.
    """

    def __init__(
        self,
        job: Job,
        model: LensModel,
        grid: PatchGrid,
        pairs: list[Pair],
        positions: Any,
        also: Sequence[Site] = (),
    ) -> None:
        self.job, self.model, self.grid, self.pairs = job, model, grid, pairs
        self._sites = [*dict.fromkeys([*grid.sites, *also])]
        if grid.kind == "pattern" and any(not pair.plain for pair in pairs):
            raise InputError("A pattern's row names positions of its own text: leave out align=.")
        self.where = [model.positions(pair.base, positions) for pair in pairs]
        self.axis = sorted({position for where in self.where for position in where})
        self.runs: list[tuple[Base, Base]] = []
        self.metrics: list[Metric] = []
        self.ends: list[tuple[float, float]] = []
        self.passes = 0.0

    def measure(
        self,
        metric: Any,
        answers: list[Any],
        wrongs: list[Any],
        only: Sequence[str] | None = None,
    ) -> None:
        """Run both texts of every pair, and say what will be measured: all variables, or some."""
        for pair, answer, wrong in zip(self.pairs, answers, wrongs, strict=True):
            self.job.tick()
            base, source = record_bases(self.model, (pair.base, pair.source), self._sites)
            denoise = pair.direction == "denoise"
            clean, corrupt = (source, base) if denoise else (base, source)
            made = make_metric(
                self.model,
                metric,
                final=clean.final,
                other=corrupt.final,
                logits=clean.logits,
                answer=answer,
                wrong=wrong,
            )
            self.runs.append((base, source))
            self.metrics.append(made)
            values = [float(made(run.final.unsqueeze(0))[0]) for run in (clean, corrupt)]
            self.ends.append((values[0], values[1]))
            self.passes += 2
        self._declare(only)

    def _declare(self, only: Sequence[str] | None) -> None:
        grid, job = self.grid, self.job
        sizes, coords = grid.sizes(), grid.coords()
        if "position" in grid.axes:
            sizes["position"] = len(self.axis)
            coords["position"] = (("position",), np.array(self.axis, dtype=np.int32))
            coords.update(self._token_coords())
        if job.batched:
            sizes["batch"] = len(self.pairs)
        job.declare(sizes, coords, only)
        first = self.metrics[0]
        for name in set(job.parts.variables if job.parts else ()) & IN_METRIC_UNITS:
            job.describe(name, units=first.units)
        kept: dict[str, list[Any]] = {
            "clean_metric": [clean for clean, _ in self.ends],
            "corrupt_metric": [corrupt for _, corrupt in self.ends],
            "answer": [metric.answer for metric in self.metrics],
        }
        if first.wrong is not None:
            kept["wrong"] = [metric.wrong for metric in self.metrics]
        for name in {"answer", "wrong"} & set(kept):  # a file has no model to look them up in
            kept[f"{name}_token"] = [self.model.token_string(token) for token in kept[name]]
        job.note(
            metric=first.name,
            metric_words=first.words,
            site=grid.kind,
            by=grid.by,
            direction=self.pairs[0].words,
            **{name: json.dumps(v) if job.batched else v[0] for name, v in kept.items()},
        )
        if grid.kind in KEY_VALUE and "head" in grid.axes:
            job.remark(
                f"Heads of {grid.kind} are key-value heads, each shared by several query heads."
            )
        if grid.window > 1:
            job.remark(f"Windows of {grid.window} layers: a place looks larger than it is.")

    def _token_coords(self) -> dict[str, tuple[tuple[str, ...], Any]]:
        """What stands at each position of the run that is patched."""
        shape = (len(self.pairs), len(self.axis))
        strings = np.full(shape, "", dtype=object)
        ids = np.full(shape, -1, dtype=np.int32)
        joins = np.zeros(shape, dtype=bool)
        for row, (pair, where) in enumerate(zip(self.pairs, self.where, strict=True)):
            for position in where:
                column = self.axis.index(position)
                strings[row, column] = pair.base.strings[0][position]
                ids[row, column] = pair.base.ids[0, position]
                joins[row, column] = pair.base.continues[0][position]
        dims = ("batch", "position") if self.job.batched else ("position",)
        found = {"token": strings.astype(str), "input_id": ids, "continues": joins}
        return {n: (dims, v if self.job.batched else v[0]) for n, v in found.items()}

    def columns(self, index: int) -> list[int]:
        """Where the positions of a pair are along the position axis."""
        return [self.axis.index(position) for position in self.where[index]]

    def distinct(self, index: int) -> bool:
        """Whether a pair's runs differ enough for a recovered fraction; remarks where not."""
        if distinct(*self.ends[index]):
            return True
        self.job.remark(
            "The clean and the corrupted run hardly differ in this metric, so no recovered "
            "fraction is given (NaN): choose texts or tokens that the model tells apart."
        )
        return False

    def live(self, part: Part, index: int, shared: int) -> tuple[int, ...] | None:
        """The positions of a part where patching can change anything.

        Returns
        -------
        tuple of int or None
            Empty where both runs hold the same; None where no position has a partner.
        """
        pair = self.pairs[index]
        known = [position for position in part.positions if pair.partner[position] is not None]
        if not known:
            return None
        return tuple(p for p in known if not self._same(part, pair, p, shared))

    def _same(self, part: Part, pair: Pair, position: int, shared: int) -> bool:
        """Whether both runs hold the same there, so that patching it changes nothing."""
        if position < shared:
            return True
        start = self.grid.kind == "embed" or (self.grid.kind == "resid_pre" and part.layer == 0)
        alone = start and self.grid.window == 1
        here = pair.partner[position] == position and position not in pair.differing
        return alone and here


def distinct(clean: float, corrupt: float) -> bool:
    """Whether two values of a metric are far enough apart to divide by their difference."""
    return abs(clean - corrupt) >= NO_DIFFERENCE * max(1.0, abs(clean), abs(corrupt))


def recovered(values: np.ndarray, clean: float, corrupt: float, direction: str) -> np.ndarray:
    """The share of the way from one run to the other; NaN where the two hardly differ."""
    if not distinct(clean, corrupt):
        return np.full_like(values, np.nan)
    moved = values - corrupt if direction == "denoise" else clean - values
    return moved / (clean - corrupt)
