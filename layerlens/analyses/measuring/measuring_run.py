"""The work of one call of ``layer_metrics``: declare, measure, push, check."""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import replace
from typing import TYPE_CHECKING, Any

import numpy as np

from layerlens.analyses.contract.contract import Job, Variable
from layerlens.corpus.sweep import Sweep
from layerlens.metrics import registry
from layerlens.metrics.base import Described, ModelShape, WeightMetric
from layerlens.metrics.batch import Numbered, split
from layerlens.metrics.collection import MetricSet
from layerlens.metrics.means import Mean
from layerlens.metrics.runner import run_metrics

if TYPE_CHECKING:
    from layerlens.metrics.layer import Layer
    from layerlens.model.lensmodel import LensModel
    from layerlens.model.text import Tokens


def variables_of(metric: type[Described]) -> dict[str, Variable]:
    """The variables of a result that a metric fills, in their order."""
    found: dict[str, Variable] = {}
    for name, output in metric.outputs.items():
        found[name] = Variable(
            output.axes,
            output.dtype,
            output.units,
            output.long_name,
            output.missing,
            is_token=output.is_token,
            source=metric.source,
            formula=metric.formula,
        )
        for end, side in (("low", "lower"), ("high", "upper")) if output.interval else ():
            words = f"{output.long_name}, {side} end of the 95 % interval over texts"
            found[f"{name}_{end}"] = replace(found[name], long_name=words)
    return found


def axes_of(
    model: LensModel, metrics: Iterable[Described], variables: Mapping[str, Variable]
) -> tuple[dict[str, int], dict[str, tuple[tuple[str, ...], Any]]]:
    """The lengths and the coordinates of the axes that some variables have."""
    shape = ModelShape.of(model)
    sizes, coords = dict(shape.sizes), dict(shape.coords)
    for metric in metrics:
        sizes |= metric.sizes()
        coords |= metric.coords()
    used = {axis for variable in variables.values() for axis in variable.dims}
    sizes = {axis: size for axis, size in sizes.items() if axis in used}
    return sizes, {name: found for name, found in coords.items() if used.issuperset(found[0])}


class Measuring:
    """The work of one call."""

    def __init__(
        self,
        job: Job,
        model: LensModel,
        names: list[str],
        made: MetricSet,
        options: Mapping[str, Mapping[str, Any]],
    ) -> None:
        self.job, self.model, self.made = job, model, made
        kinds = [registry.get(name) for name in names]
        shape = ModelShape.of(model)
        self.weights = [
            metric
            for name, kind in zip(names, kinds, strict=True)
            if issubclass(kind, WeightMetric)
            and isinstance(
                metric := registry.make(name, model, shape, options.get(name, {})), WeightMetric
            )
        ]
        self.variables = {name: v for kind in kinds for name, v in variables_of(kind).items()}
        self.all: list[Described] = [*self.weights, *made.metrics]
        self.done = 0
        self.shown = 0

    def run(self, tokens: Tokens, batch_size: int | None) -> None:
        """Declare, measure, push, check."""
        self._declare()
        batches = split(tokens, batch_size) if self.made.metrics else []
        self.total = len(self.weights) + len(batches) * self.model.n_layers
        for metric in self.weights:
            self.job.emit({}, metric.compute(self.model, self.job.tick))
            self._step(metric.name)
        self._note(self._measure(batches))
        self._check(sum(tokens.lengths))

    def run_corpus(self, sweep: Sweep) -> None:
        """Declare, measure shard by shard, push after each, check."""
        self._declare()
        for metric in self.weights:
            self.job.emit({}, metric.compute(self.model, self.job.tick))
        if not self.made.metrics:
            return
        try:
            sweep.run(self.job.tick, lambda: self._show_shard(sweep), self._show_tokens)
        finally:
            self.made = sweep.found.metrics
            if self.made.texts:
                self.job.emit({}, self.made.values())
            self._note(sweep.found.passes)
            self._note_corpus(sweep)
        self.job.check("finite", len(sweep.found.broken), 0, "rows left out for NaN or infinity")
        self._check(sweep.rows.counts.tokens - sweep.found.tokens)

    def _show_shard(self, sweep: Sweep) -> None:
        self.made = sweep.found.metrics
        self._show_all()

    def _show_tokens(self, done: int, total: int) -> None:
        self.job.progress(done, total, "")

    def _note(self, passes: int) -> None:
        self.job.note(
            passes=passes,
            texts=self.made.texts,
            tokens=self.made.tokens,
            tokens_counted=self.made.kept,
            skip_first=self.made.skip_first,
        )

    def _note_corpus(self, sweep: Sweep) -> None:
        counts = sweep.rows.counts
        self.job.note(
            texts=counts.texts,
            rows=self.made.texts,
            rows_not_finite=len(sweep.found.broken),
            texts_empty=counts.empty,
            texts_cut=counts.cut,
            texts_split=counts.split,
            row_length=sweep.rows.length,
            batch_tokens=sweep.batch_tokens,
            shards=sweep.shards,
            tokens_resumed=sweep.resumed,
            workers_lost=sweep.restarts,
        )
        for remark in sweep.remarks:
            self.job.remark(remark)

    def _declare(self) -> None:
        sizes, coords = axes_of(self.model, self.all, self.variables)
        names = [metric.name for metric in self.all]
        self.job.note(metrics=json.dumps(names), variables=json.dumps(list(self.variables)))
        self.job.declare(sizes, coords, only=list(self.variables))

    def _measure(self, batches: Sequence[Numbered]) -> int:
        if not batches:
            return 0
        passes = run_metrics(
            self.model,
            batches,
            self.made,
            tick=self.job.tick,
            on_layer=self._show_layer,
            on_batch=lambda batch: self._show_all(),
        )
        if self.shown < self.made.texts:
            self.job.emit({}, self.made.values())
        return passes

    def _show_layer(self, layer: Layer) -> None:
        """Push what every metric says of this layer so far."""
        values = self.made.values(intervals=False, streamed=True)
        self._push("layer", [layer.number], values)
        points = [0, 1] if layer.number == 0 else [layer.number + 1]
        self._push("point", points, values)
        self._step(f"layer {layer.number}")

    def _push(self, axis: str, places: Iterable[int], values: Mapping[str, np.ndarray]) -> None:
        here = {name: v for name, v in values.items() if self.variables[name].dims[:1] == (axis,)}
        for place in places:
            if here:
                self.job.emit({axis: place}, {name: v[place] for name, v in here.items()})

    def _show_all(self) -> None:
        """Push everything after a pass, with intervals whenever the number of texts doubled."""
        texts = self.made.texts
        doubled = texts >= 2 * self.shown
        if doubled:
            self.shown = texts
        self.job.emit({}, self.made.values(intervals=doubled))

    def _step(self, what: str) -> None:
        self.done += 1
        self.job.progress(self.done, self.total, what)

    def _check(self, tokens: int) -> None:
        if self.made.metrics:
            missed = abs(self.made.tokens - tokens)
            self.job.check("tokens", missed, 0, "tokens fed but not seen, padding aside")
        for metric in self.all:
            if isinstance(metric, Mean) and metric.left_out:
                self.job.remark(
                    f"{metric.name} is not defined for {metric.left_out} of its numbers (a vector "
                    "of length zero has no direction), which do not count"
                )
            for name, error, limit, what in metric.checks():
                self.job.check(f"{metric.name}: {name}", error, limit, what)
