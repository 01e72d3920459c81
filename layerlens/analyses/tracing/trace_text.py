"""The corrupted runs of one text for causal tracing, and the cells that restore something."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from torch import Tensor

from layerlens.analyses.contract.contract import Job
from layerlens.analyses.sweeps.layer_windows import window_layers
from layerlens.analyses.sweeps.over_bases import Average, Sampled
from layerlens.analyses.texts.subjects import GROUPS, position_groups
from layerlens.model.sites import Site
from layerlens.run.base import Base, record_base
from layerlens.run.cell import Cell
from layerlens.run.changes import Change

if TYPE_CHECKING:
    from layerlens.analyses.answers.answer_metric import Metric
    from layerlens.analyses.sweeps.cell_sweep import Place
    from layerlens.model.lensmodel import LensModel


WINDOWS = {"resid_post": 1, "mlp_out": 10, "attn_out": 10}
"""Sites that can be restored, and over how many layers together unless told."""


@dataclass(frozen=True)
class TracePlan:
    """What is done with every text.

    Attributes
    ----------
    kind, sites
        What is restored, in the layers that have it.
    window
        Layers restored together.
    samples, seed
        Of the noise.
    layers
        Around which windows lie.
    verify
        Cells that are run again the naive way.
    how
        ``method`` and ``memory_limit`` of the sweeps.
    """

    kind: str
    window: int
    samples: int
    seed: int
    layers: tuple[int, ...]
    sites: tuple[Site, ...]
    verify: int
    how: Mapping[str, Any]


def embedding_std(clean: Sequence[Base], subjects: Sequence[Sequence[int]]) -> float:
    """Standard deviation of all entries of the token embeddings of the subjects of all texts."""
    entries = [base.trace["embed"][0, list(at)] for base, at in zip(clean, subjects, strict=True)]
    return float(torch.cat(entries).float().std())


def trace_sites(model: LensModel, kind: str) -> tuple[Site, ...]:
    """The sites of a kind, in all layers that have one."""
    blocks = enumerate(model.anatomy.blocks)
    found = tuple(Site(kind, layer) for layer, block in blocks if kind in block.taps)
    if not found:
        model.anatomy.tap(Site(kind, 0))  # raises, and says why
    return found


def noise_samples(
    clean: Base, subject: tuple[int, ...], samples: int, seed: int, std: float
) -> Tensor:
    """What is added to the embeddings of the subject, ``[sample, position, d_model]``."""
    shape = (samples, len(subject), clean.trace["embed"].shape[-1])
    return torch.from_numpy(np.random.RandomState(seed).randn(*shape) * std)


def restored(clean: Base, site: Site, columns: tuple[int, ...]) -> Change:
    """Put a site back to what it is in the clean run, at some positions."""
    return Change(site, "set", clean.trace[site][0, list(columns)], positions=columns)


class TextTrace:
    """The corrupted runs of one text, and the cells that restore something in them.

    Parameters
    ----------
    at
        Positions that are restored, and where each stands on the axis of positions.
    share
        Which text this is, of how many.
    """

    def __init__(
        self,
        job: Job,
        model: LensModel,
        clean: Base,
        measure: Metric,
        plan: TracePlan,
        subject: tuple[int, ...],
        at: Mapping[int, int],
        share: tuple[int, int],
    ) -> None:
        self.job, self.model, self.clean, self.measure = job, model, clean, measure
        self.plan, self.subject, self.at, self.share = plan, subject, at, share
        self.lead = {"batch": share[0]} if job.batched else {}
        self.name = f" of text {share[0]}" if job.batched else ""
        self.value = float(measure(clean.final.unsqueeze(0))[0])
        self.corrupted: list[float] = []
        self.passes = 1.0
        self.method = ""
        self.average = Average(self._arrays)
        self.groups = np.full((len(GROUPS), len(plan.layers)), np.nan)

    def _arrays(self, mean: np.ndarray, error: np.ndarray) -> dict[str, np.ndarray]:
        restored = mean + np.mean(self.corrupted)
        return {"indirect_effect": mean + 0.0, "restored": restored, "standard_error": error}

    def run(self, std: float, width: int) -> None:
        """Trace one text on an axis of ``width`` positions."""
        plan = self.plan
        noise = noise_samples(self.clean, self.subject, plan.samples, plan.seed, std)
        cells = self._cells()
        wrong = 0.0
        for number, value in enumerate(noise):
            sweep = self._sweep(number, value)
            for cell, place in cells:
                sweep.add(cell, place)
            whole = sweep.add(self._everything(), None)
            if number == 0:
                self._leave_gaps(sweep, cells, width)
            sweep.run()
            wrong = max(wrong, abs(float(sweep.values[whole]) - self.value))
            if number == 0:
                self._check_first(sweep, cells)
            self.method = sweep.method
            self.passes += 1 + sweep.passes
        what = "metric with the state before block 0 restored everywhere, less the clean one"
        self.job.check(f"all restored is the clean run{self.name}", wrong, sweep.tolerance, what)
        self._group(cells)

    def _cells(self) -> list[tuple[Cell, Place]]:
        """Cells and their places: the end of the subject and the answer's come first."""
        first = [self.subject[-1], self.clean.at, *self.subject]
        order = dict.fromkeys([column for column in first if column in self.at] + list(self.at))
        present = {site.block: site for site in self.plan.sites}
        found: list[tuple[Cell, Place]] = []
        for column in order:
            for index, layer in enumerate(self.plan.layers):
                window = window_layers(layer, self.plan.window, self.model.n_layers)
                changes = [
                    restored(self.clean, present[inside], (column,))
                    for inside in window
                    if inside in present
                ]
                if changes:
                    place = {"position": self.at[column], "layer": index}
                    found.append((Cell(tuple(changes)), place))
        return found

    def _sweep(self, number: int, noise: Tensor) -> Sampled:
        """The corrupted run of one noise sample, from which cells are run."""
        spoilt = Change(self.model.anatomy.entry, "add", noise, positions=self.subject)
        base = record_base(self.model, self.clean.tokens, changes=[spoilt])
        row, texts = self.share
        sweep = Sampled(
            self.job,
            self.model,
            base,
            self.measure,
            self.average,
            lead=self.lead,
            share=(row * self.plan.samples + number, texts * self.plan.samples),
            **self.plan.how,
        )
        self.corrupted.append(sweep.base_value)
        return sweep

    def _everything(self) -> Cell:
        """The cell that restores all there is."""
        columns = tuple(range(self.clean.length))
        return Cell((Change(Site("resid_pre", 0), "set", self.clean.state(0), positions=columns),))

    def _leave_gaps(self, sweep: Sampled, cells: list[tuple[Cell, Place]], width: int) -> None:
        """Say where there is nothing: beyond a shorter text, or no such sublayer in reach."""
        taken = {(place["position"], place["layer"]) for _, place in cells}
        for position in range(width):
            for layer in range(len(self.plan.layers)):
                if (position, layer) not in taken:
                    sweep.fill({"position": position, "layer": layer}, np.nan)

    def _check_first(self, sweep: Sampled, cells: list[tuple[Cell, Place]]) -> None:
        """What holds for every sample, seen on the first."""
        if not self.model.bidirectional:  # else noise reaches every position
            before = [i for i, (cell, _) in enumerate(cells) if cell.position < self.subject[0]]
            moved = np.abs(sweep.values[before] - sweep.base_value)
            self.job.check(
                f"no effect before the subject{self.name}",
                float(moved.max(initial=0)),
                sweep.tolerance,
                "largest effect at a position that no noise can reach",
            )
        sweep.verify(self.plan.verify)

    def _group(self, cells: list[tuple[Cell, Place]]) -> None:
        """Mean effects over the positions of each group."""
        effects = np.full((len(self.plan.layers), 1 + max(self.at.values())), np.nan)
        for (_, place), effect in zip(cells, self.average.mean(), strict=False):
            effects[place["layer"], place["position"]] = effect
        groups = position_groups(self.subject, self.clean.length)
        for group, name in enumerate(GROUPS):
            columns = [self.at[column] for column in groups[name] if column in self.at]
            if columns:
                self.groups[group] = effects[:, columns].mean(1)
        self.job.emit(self.lead, {"group_effect": self.groups})
