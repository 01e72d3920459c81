"""Every layer measured: many metrics, one pass, any number of texts."""

from __future__ import annotations

import json
import os
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import replace
from typing import TYPE_CHECKING, Any

import numpy as np

from layerlens.analyses.contract.contract import Job, Variable, Work, analysis
from layerlens.corpus.rows import Rows
from layerlens.corpus.sweep import BATCH_TOKENS, Sweep
from layerlens.corpus.texts import Texts
from layerlens.errors import InputError
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

DEFAULT = (
    "residual_norm",
    "attn_ratio",
    "mlp_ratio",
    "block_ratio",
    "attn_cosine",
    "mlp_cosine",
    "block_cosine",
    "block_influence",
    "angular_distance",
    "massive_activations",
)
"""What is measured when nothing is named, as far as the model has what it takes."""

Asked = str | Sequence[str] | None


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


VARIABLES = {
    name: variable
    for metric in registry.every().values()
    for name, variable in variables_of(metric).items()
}


def chosen(model: LensModel, metrics: Asked) -> tuple[list[str], list[str]]:
    """The metrics to measure, and a sentence for each of the default ones that is left out.

    Raises
    ------
    InputError
        When a name is not known; an analysis of its own is named as such.
    """
    if metrics is not None:
        if not isinstance(metrics, Iterable):
            raise InputError(f"metrics is {metrics!r}; expected names from ll.metrics().")
        for name in [metrics] if isinstance(metrics, str) else metrics:
            require_metric(name)
        return registry.named(metrics), []
    absent = {name: registry.get(name).missing(model) for name in DEFAULT}
    remarks = [f"{name} was left out: {reason}" for name, reason in absent.items() if reason]
    return [name for name, reason in absent.items() if not reason], remarks


def require_metric(name: str) -> None:
    """Refuse an analysis of its own as a metric.

    Raises
    ------
    InputError
        When it is one.
    """
    from layerlens.analyses.contract.registry import names

    if name not in registry.every() and name in names():
        raise InputError(
            f"{name} takes passes of its own, so it is no metric among others: call "
            f"ll.{name}(model, ...)."
        )


def count_work(
    model: LensModel,
    tokens: Tokens | Texts,
    *,
    metrics: Asked,
    skip_first: bool | int,
    batch_size: int | None,
    metric_options: Mapping[str, Mapping[str, Any]] | None,
    batch_tokens: int | None,
    **for_corpora: Any,
) -> Work:
    """Count passes, rows through the head and bytes of one call; reads a corpus, runs nothing."""
    names, _ = chosen(model, metrics)
    made = MetricSet.make(model, names, skip_first=skip_first, options=metric_options)
    kept = sum(array.nbytes for metric in made.metrics for array in metric.arrays.values())
    if isinstance(tokens, Texts):
        widest = batch_tokens or BATCH_TOKENS
        counts = Rows(tokens, model, widest).count()
        rows, fed = counts.rows, counts.tokens
    else:
        widest = max((part.ids.numel() for part, _ in split(tokens, batch_size)), default=0)
        rows, fed = len(tokens.ids), int(tokens.ids.numel())
    states = (model.n_layers + 1) * widest * model.d_model * 4
    passes = int(bool(made.metrics))
    return Work(passes, passes * rows, kept + states, tokens=fed)


@analysis(
    name="layer_metrics",
    question="What does each layer do to the residual stream?",
    source="Csordás, Manning and Potts (2025) and others, named at each variable",
    cost="1 pass for all metrics",
    view="metrics",
    lead="Each panel is one measure of every layer; the band is the 95 % interval over texts, "
    "and a layer that is picked is marked in all of them.",
    variables=VARIABLES,
    work=count_work,
    pooled=True,
    positional=("metrics",),
    corpus=True,
)
def layer_metrics(
    job: Job,
    model: LensModel,
    tokens: Tokens | Texts,
    *,
    metrics: Asked = None,
    skip_first: bool | int = True,
    batch_size: int | None = None,
    metric_options: Mapping[str, Mapping[str, Any]] | None = None,
    batch_tokens: int | None = None,
    workers: int | str | None = None,
    checkpoint: str | os.PathLike[str] | None = None,
) -> None:
    """Measure every layer over one or more texts, all metrics in the same pass.

    ``ll.texts`` reads a corpus of any length, which is measured shard by shard (of about four
    batches) in memory that does not grow with it.

    Parameters
    ----------
    metrics
        Names from ``ll.metrics()``; None for a set that says how the model uses its depth.
    skip_first
        Leave out the first token of each text (or so many): in most models it has a norm of its
        own, hundreds of times that of others, which means would then show. Published numbers
        often include it. Metrics of attention and of massive activations always see it.
    batch_size
    metric_options
        Name of a metric to its options, ``{"angular_distance": {"token": "last"}}``.
    batch_tokens
        Of a corpus: most tokens in one pass, padding included; None for 2,048.
    workers
        Of a corpus: None measures in this process, a number in so many Ray workers on this
        machine (extra ``[ray]``), ``"ray"`` in as many as the Ray cluster has processors, or
        graphics cards for a model on one. A worker loads the model from where ``ll.load`` found
        it; one that was given in memory is sent, and then takes its size once more in Ray's
        object store. The shard of a worker that dies is measured again, and counted once.
    checkpoint
        Of a corpus: a file that is written every 30 s and when the call ends or is stopped. A
        later call with the same model, texts and options goes on from there. Not more than the
        shards under way are lost.

    Notes
    -----
    One variable for each metric, with ``units``, ``long_name``, ``source`` and ``formula`` as
    attributes, over ``layer`` or ``point`` (``point_layer`` is the layer that a state comes
    after, -1 before the first). ``<name>_low`` and ``<name>_high`` are the 95 % interval over
    texts: texts (in groups, beyond 128 of them) are resampled, never tokens; with one text there
    is none. Several texts give one answer; padding takes no part in it.

    Raises
    ------
    InputError
        A metric or an option is not known, or no token counts.
    SiteError
        The model has not what a metric reads.
    ActivationError
        The model's activations hold NaN or infinity. In a corpus, such texts are left out and
        counted (``rows_not_finite`` and the check ``finite``), unless it begins with nothing else.

    Examples
    --------
    >>> import layerlens as ll
    >>> model = ll.load("toy:induction")
    >>> ll.layer_metrics(model, [1, 2, 3, 1, 2], ["block_influence"]).data.block_influence.dims
    ('layer',)
    >>> corpus = ll.texts(["cat dog owl", "owl fox bee"])
    >>> ll.layer_metrics(model, corpus, ["cka"], checkpoint="measured.safetensors").data.texts
    2
    """
    names, remarks = chosen(model, metrics)
    for remark in remarks:
        job.remark(remark)
    made = MetricSet.make(model, names, skip_first=skip_first, options=metric_options)
    measuring = _Measuring(job, model, names, made, metric_options or {})
    own: dict[str, Any] = {
        "batch_tokens": batch_tokens,
        "workers": workers,
        "checkpoint": checkpoint,
    }
    if isinstance(tokens, Texts):
        if batch_size is not None:
            raise InputError("batch_size is for a few texts: give batch_tokens for a corpus.")
        measuring.run_corpus(Sweep(model, tokens, made, **own))
        return
    if given := [name for name, value in own.items() if value is not None]:
        raise InputError(f"{given[0]} is for a corpus: wrap the texts, ll.texts(texts).")
    if made.metrics and made.skip_first >= max(tokens.lengths):
        raise InputError(
            f"No token counts: the longest text has {max(tokens.lengths)} and the first "
            f"{made.skip_first} are left out. Give longer texts, or skip_first=False."
        )
    measuring.run(tokens, batch_size)


class _Measuring:
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
