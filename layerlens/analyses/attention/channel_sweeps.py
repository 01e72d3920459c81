"""A text run with single channels of a head stronger or weaker: those of OV, and those of QK."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from torch import Tensor

from layerlens.analyses.answers.answer_metric import make_metric
from layerlens.analyses.sweeps.cell_sweep import Sweep
from layerlens.model.sites import Site
from layerlens.run.base import record_base
from layerlens.run.cell import Cell
from layerlens.run.changes import Change
from layerlens.run.forward import forward

if TYPE_CHECKING:
    from layerlens.analyses.contract.job import Job
    from layerlens.analyses.contributions.head_matrices import Norm
    from layerlens.model.lensmodel import LensModel
    from layerlens.model.text import Tokens
    from layerlens.run.base import Base

BATCH_TOKENS = 1024
"""Tokens of the runs that are made together to read their patterns."""


@dataclass(frozen=True, eq=False)
class Lever:
    """Where channels of a map pass while the model runs, and what each adds there.

    Attributes
    ----------
    map
        ``"ov"`` or ``"qk"``.
    site
        The head's ``z`` or ``q``.
    reads, adds
        ``[channel, size]`` float64: how strong a channel is in a value of the site, and what it
        has put there; the product of the two is one.
    """

    map: str
    site: Site
    reads: Tensor
    adds: Tensor

    def changed(self, value: Tensor, channel: int, coefficient: float) -> Tensor:
        """Values ``[position, size]`` with one channel so many times as strong, float64."""
        exact = value.to(self.reads)
        strength = exact @ self.reads[channel]
        return exact + (coefficient - 1) * torch.outer(strength, self.adds[channel])

    def before(self, norm: Norm) -> Lever:
        """The same on what a norm is given, whose statistics follow from what becomes of it."""
        gain = norm.gain.to(self.adds)
        adds = (self.adds / gain).where(gain != 0, 0.0)
        return Lever(self.map, self.site, norm.read_through(self.reads), adds)


class ChannelSweeps:
    """One text, and what is measured of it.

    Parameters
    ----------
    sites
        Those of the levers.
    positions
        Where they are changed; None for everywhere.
    measure
        Options of the metric.
    """

    def __init__(
        self,
        job: Job,
        model: LensModel,
        tokens: Tokens,
        sites: Sequence[Site],
        positions: Any,
        measure: dict[str, Any],
    ) -> None:
        self.job, self.model = job, model
        self.columns = tuple(model.positions(tokens, positions))
        self.base: Base = record_base(model, tokens, [site.whole for site in sites])
        self.metric = make_metric(model, final=self.base.final, **measure)
        self.passes, self.method = 1.0, ""

    def changes(self, lever: Lever, channel: int, dose: float, row: int | None = None) -> Change:
        """One channel at one strength."""
        value = self.base.trace[lever.site.whole][0, list(self.columns), lever.site.head]
        new = lever.changed(value, channel, dose).to(value.dtype)
        return Change(lever.site, "set", new, self.columns, row=row)

    def run(
        self,
        lever: Lever,
        channels: int,
        doses: Sequence[float],
        share: tuple[int, int],
        *,
        verify: int,
        memory_limit: int,
    ) -> None:
        """Measure each channel at each strength."""
        names = (f"{lever.map}_dose_metric", f"{lever.map}_dose_change")

        def show(values: np.ndarray) -> dict[str, np.ndarray]:
            both = (values, values - sweep.base_value)
            return {n: v.astype(np.float32) for n, v in zip(names, both, strict=True)}

        job = self.job
        sweep = Sweep(
            job, self.model, self.base, self.metric, show, share=share, memory_limit=memory_limit
        )
        for channel in range(channels):
            for number, dose in enumerate(doses):
                cell = Cell((self.changes(lever, channel, dose),))
                sweep.add(cell, {"channel": channel, "coefficient": number})
        sweep.run()
        sweep.verify(verify)
        if 1.0 in doses:
            same = sweep.values.reshape(channels, -1)[:, list(doses).index(1.0)]
            error = float(np.abs(same - sweep.base_value).max())
            what = f"metric with the strength in {lever.map.upper()} as it is against the plain run"
            job.check("coefficient 1 changes nothing", error, sweep.tolerance, what)
        for name in names:
            job.describe(name, units=self.metric.units)
        self.passes += sweep.passes
        self.method = sweep.method
        job.note(
            passes=1 + self.passes,
            method=self.method,
            metric=self.metric.name,
            metric_words=self.metric.words,
            base_metric=sweep.base_value,
            swept_text="".join(self.base.tokens.strings[0]),
        )

    def patterns(self, lever: Lever, channels: int, doses: Sequence[float]) -> None:
        """Where the head then looks, from the last position that is changed."""
        query = self.columns[-1]
        self.job.note(pattern_query=query)
        plan = [(channel, dose) for channel in range(channels) for dose in range(len(doses))]
        size = max(1, BATCH_TOKENS // self.base.length)
        for start in range(0, len(plan), size):
            self.job.tick()
            part = plan[start : start + size]
            changes = [
                self.changes(lever, channel, doses[dose], row)
                for row, (channel, dose) in enumerate(part)
            ]
            for (channel, dose), row in zip(part, self._looks(lever, changes, query), strict=True):
                where = {"channel": channel, "coefficient": dose}
                self.job.emit(where, {"qk_dose_pattern": row.float().cpu().numpy()})
            self.passes += len(part) * (lever.site.block + 1) / self.model.n_layers
        self.job.note(passes=1 + self.passes)

    def _looks(self, lever: Lever, changes: Sequence[Change], query: int) -> Tensor:
        """``[change, key]``: the head's pattern in each run; ends the pass behind it."""
        found: list[Tensor] = []

        def keep(_: Site, value: Tensor) -> None:
            found.append(value[:, lever.site.head, query].clone())
            raise _Enough

        try:
            tokens = self.base.tokens.repeated(len(changes))
            site = Site("pattern", lever.site.layer)
            forward(self.model, tokens, [site], keep, logits=None, changes=changes)
        except _Enough:
            pass
        return found[0]


class _Enough(Exception):  # noqa: N818 - no error: ends a pass that has shown what it was run for
    """What was wanted of a pass has been read."""
