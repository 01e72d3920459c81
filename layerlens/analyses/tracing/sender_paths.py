"""The senders of path patching: their grid, and what the path of each one carries."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from functools import partial
from typing import TYPE_CHECKING, Any

import numpy as np

from layerlens.analyses.contract.contract import Job, Variable
from layerlens.analyses.patching.pair_runs import distinct
from layerlens.analyses.sweeps.cell_sweep import Sweep
from layerlens.analyses.sweeps.estimates import Agreement
from layerlens.analyses.tracing.estimated_paths import PathEstimate
from layerlens.analyses.tracing.head_edges import WHOLE, Edges
from layerlens.model.sites import Site

if TYPE_CHECKING:
    from layerlens.analyses.answers.answer_metric import Metric
    from layerlens.model.lensmodel import LensModel

TOGETHER = 96
"""Senders whose third runs are made before their fourth ones are run together."""

_GRID = ("layer", "head?", "sublayer?")
VARIABLES = {
    "recovered": Variable(
        _GRID, "float32", "1", "share of the difference that this path carries", signed=True
    ),
    "effect": Variable(
        _GRID, "float32", "1", "change of the metric through this path alone", signed=True
    ),
    "metric": Variable(
        _GRID, "float32", "1", "metric of the run with the path patched", signed=True
    ),
    "estimate": Variable(
        _GRID, "float32", "1", "share of the difference, estimated before", signed=True
    ),
}


class SenderGrid:
    """Where each sender is in the result: its layer, and its head or sublayer."""

    def __init__(self, model: LensModel, senders: Sequence[Site]) -> None:
        # Late senders have the shortest way, so they come first.
        self.senders = sorted(senders, key=lambda site: (-site.block, site.head or 0, site.kind))
        self.layers = sorted({site.block for site in senders})
        kinds = {site.kind for site in senders}
        self.axis = "head" if "z" in kinds else "sublayer"
        self.entries: list[Any] = [kind for kind in WHOLE if kind in kinds]
        if self.axis == "head":
            self.entries = list(range(model.n_heads))

    def place(self, sender: Site) -> dict[str, int]:
        """Indices of a sender."""
        entry = sender.kind if sender.head is None else sender.head
        return {"layer": self.layers.index(sender.block), self.axis: self.entries.index(entry)}

    def declare(self, job: Job, texts: int, *, estimate_first: bool) -> None:
        """State axes and coordinates."""
        sizes = {"layer": len(self.layers), self.axis: len(self.entries)}
        if job.batched:
            sizes["batch"] = texts
        entries = np.array(self.entries, dtype=np.int32 if self.axis == "head" else None)
        layers = np.array(self.layers, dtype=np.int32)
        filled = [name for name in VARIABLES if name != "estimate" or estimate_first]
        coords = {"layer": (("layer",), layers), self.axis: ((self.axis,), entries)}
        job.declare(sizes, coords, filled)

    def gaps(self) -> Iterator[dict[str, int]]:
        """Places of the grid without a sender."""
        known = [self.place(sender) for sender in self.senders]
        for layer in range(len(self.layers)):
            for entry in range(len(self.entries)):
                if (place := {"layer": layer, self.axis: entry}) not in known:
                    yield place


class SenderPaths:
    """All senders of one pair."""

    def __init__(
        self,
        job: Job,
        edges: Edges,
        measure: Metric,
        grid: SenderGrid,
        share: tuple[int, int],
    ) -> None:
        self.job, self.edges, self.measure = job, edges, measure
        self.grid, self.share = grid, share
        self.value, self.other = (
            float(measure(run.final.unsqueeze(0))[0]) for run in (edges.base, edges.source)
        )
        if not distinct(self.value, self.other):
            job.remark(
                "Both texts give nearly the same value of the metric, so there is nothing to "
                "recover (NaN): choose texts or tokens that the model tells apart."
            )
        self.values: dict[Site, float] = {}
        self.order = list(grid.senders)
        self.agreement: Agreement | None = None
        self.method, self.passes = "", 2.0

    @property
    def _gap(self) -> float:
        return self.other - self.value if distinct(self.value, self.other) else np.nan

    def _show(self, values: np.ndarray) -> dict[str, np.ndarray]:
        effect = values - self.value
        return {"recovered": effect / self._gap + 0.0, "effect": effect, "metric": values}

    def estimate(self, agreement: Agreement) -> None:
        """Estimate every sender and push that; the strongest are then patched first."""
        self.job.tick()
        estimate = PathEstimate(self.edges, self.measure, self.edges.pair.direction)
        changes = estimate.changes(self.order)
        self.passes += estimate.passes
        if changes is None:
            self.job.note(no_estimate=estimate.lack)
            agreement.begin(None)
            return
        ranks = np.argsort(-np.abs(changes), kind="stable")
        self.order = [self.order[number] for number in ranks]
        self.agreement = agreement
        agreement.begin(changes[ranks])
        shape = (len(self.grid.layers), len(self.grid.entries))
        grid = np.full(shape, np.nan, dtype=np.float32)
        for sender, change in zip(self.order, changes[ranks], strict=True):
            grid[tuple(self.grid.place(sender).values())] = change / self._gap
        row, _ = self.share
        self.job.emit({"batch": row} if self.job.batched else {}, {"estimate": grid})

    def _compare(self, sweep: Sweep, done: int, count: int) -> None:
        """Tell how well the senders that are finished agree with their estimates."""
        assert self.agreement is not None
        truth = np.full(len(self.order), np.nan)
        truth[:done] = [self.values[sender] for sender in self.order[:done]]
        truth[done : done + count] = sweep.values[:count]
        sweep.told = self.agreement.tell(truth - self.value)

    def run(self, verify: int, **how: Any) -> None:
        """Measure every sender, the last layers first; then the checks."""
        chunks = list(self._chunks())
        row, texts = self.share
        for number, chunk in enumerate(chunks):
            self.job.tick()
            compare = partial(self._compare, done=len(self.values), count=len(chunk))
            sweep = Sweep(
                self.job,
                self.edges.model,
                self.edges.base,
                self.measure,
                self._show,
                lead={"batch": row} if self.job.batched else {},
                share=(row * len(chunks) + number, texts * len(chunks)),
                done=compare if self.agreement else None,
                **how,
            )
            self._add(sweep, chunk)
            own = None if number else sweep.add(self.edges.cells([chunk[0]], own=True)[0], None)
            if number == 0:
                self._leave_gaps(sweep)
            sweep.run(self._promise(sweep))
            self.values.update(zip(chunk, sweep.values.tolist(), strict=False))
            self.method = sweep.method
            self.passes += sweep.passes + len(chunk) * bool(self.edges.receivers)
            if own is not None:
                self._check_own(sweep, own)
        self._check_strongest(sweep.tolerance, verify)

    def _promise(self, sweep: Sweep) -> list[float] | None:
        """Numbers by which the cells of a sweep keep their order; None where any will do."""
        return None if self.agreement is None else list(range(len(sweep), 0, -1))

    def _chunks(self) -> Iterator[list[Site]]:
        """Senders a handful at a time, where they are kept."""
        size = TOGETHER if self.edges.receivers else len(self.order)
        for start in range(0, len(self.order), size):
            yield self.order[start : start + size]

    def _add(self, sweep: Sweep, chunk: list[Site]) -> None:
        for sender, cell in zip(chunk, self.edges.cells(chunk), strict=True):
            sweep.add(cell, self.grid.place(sender))

    def _leave_gaps(self, sweep: Sweep) -> None:
        """What was not asked for, or does not exist in a layer, is NaN for good."""
        for place in self.grid.gaps():
            sweep.fill(place, np.nan)

    def _check_own(self, sweep: Sweep, own: int) -> None:
        error = abs(float(sweep.values[own]) - self.value)
        what = "metric with a sender at its own value, less the plain one"
        name = f"own value changes nothing{self._text}"
        self.job.check(name, error, sweep.tolerance, what)

    def _check_strongest(self, tolerance: float, verify: int) -> None:
        """The strongest senders again, with four whole passes each."""
        strongest = sorted(
            self.grid.senders, key=lambda place: -abs(self.values[place] - self.value)
        )
        errors = []
        for sender in strongest[:verify]:
            self.job.tick()
            again = float(self.measure(self.edges.plainly(sender).unsqueeze(0))[0])
            errors.append(abs(again - self.values[sender]))
            self.passes += 2
        if errors:
            what = f"the {len(errors)} strongest senders, each against four whole passes"
            name = f"paths equal the four runs{self._text}"
            self.job.check(name, max(errors), tolerance, what)

    @property
    def _text(self) -> str:
        return f" of pair {self.share[0]}" if self.job.batched else ""
