"""Feed metrics: one pass for each batch of texts, whatever was asked for."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from contextlib import nullcontext
from typing import TYPE_CHECKING

from torch import Tensor

from layerlens.errors import ActivationError, SiteError
from layerlens.metrics.batch import Batch, Numbered
from layerlens.metrics.collection import MetricSet
from layerlens.metrics.layer import Layer, sites_of
from layerlens.metrics.one_thread import one_thread
from layerlens.model.sites import Site
from layerlens.run.forward import forward

if TYPE_CHECKING:
    from layerlens.model.lensmodel import LensModel

FEW_NUMBERS = 1 << 20
"""Metrics of states of fewer numbers compute on one thread: they are hundreds of small steps, at
which threads wait for each other longer than they compute."""


def run_metrics(
    model: LensModel,
    batches: Iterable[Numbered],
    metrics: MetricSet,
    *,
    tick: Callable[[], None] = lambda: None,
    on_layer: Callable[[Layer], None] = lambda layer: None,
    on_batch: Callable[[Batch], None] = lambda batch: None,
) -> int:
    """Run a model over texts and let every metric see every layer.

    Each layer is dropped as soon as the metrics have seen it. A pass that is stopped half way
    (``tick`` raised) has left its first layers in the metrics: where results are merged, feed a
    set of its own (``metrics.empty()``) and merge it when the pass has ended.

    Parameters
    ----------
    batches
        Tokens of each pass, with the number of each text among all texts; see
        :func:`layerlens.metrics.batch.split`.
    metrics
        Are changed.
    tick
        Called at each layer; may raise to stop.
    on_layer
        Called inside the pass when all metrics have seen a layer.
    on_batch
        Called after each pass.

    Returns
    -------
    int
        Passes.

    Raises
    ------
    SiteError
        When no layer has a part that a metric reads.
    ActivationError
        When the stream holds NaN or infinity.
    """
    plan = _plan(model, metrics.parts)
    passes = 0
    for tokens, numbers in batches:
        batch = Batch(tokens, numbers, metrics.skip_first)
        one = _Pass(model, batch, metrics, plan, tick, on_layer)
        for metric in metrics.metrics:
            metric.start(batch)
        forward(model, tokens, one.sites, one.see, logits="last")
        for metric in metrics.metrics:
            metric.end(batch)
        metrics.count(batch)
        passes += 1
        on_batch(batch)
    return passes


Plan = list[dict[str, tuple[Site, ...]]]
"""For each layer, the parts that it has and the sites they are made from."""


def _plan(model: LensModel, parts: set[str]) -> Plan:
    plan: Plan = []
    for layer in range(model.n_layers):
        found: dict[str, tuple[Site, ...]] = {}
        for part in {*parts, "post"}:
            try:
                found[part] = sites_of(model, part, layer)
            except SiteError:  # hybrid models: other layers may have it
                continue
        plan.append(found)
    absent = [part for part in parts if not any(part in found for found in plan)]
    if absent:
        sites_of(model, absent[0], 0)  # raises, and says why
    return plan


class _Pass:
    """Collects the sites of each layer of one pass and hands the layer on when it is complete."""

    def __init__(
        self,
        model: LensModel,
        batch: Batch,
        metrics: MetricSet,
        plan: Plan,
        tick: Callable[[], None],
        on_layer: Callable[[Layer], None],
    ) -> None:
        self._model = model
        self._batch = batch
        self._metrics = metrics
        self._plan = plan
        self._tick = tick
        self._on_layer = on_layer
        self._raw: dict[int, dict[str, Tensor]] = {layer: {} for layer in range(len(plan))}
        self._before: Layer | None = None
        self._few = len(batch.every) * metrics.shape.d_model < FEW_NUMBERS
        self._wanted = [{site.kind for sites in parts.values() for site in sites} for parts in plan]
        self.sites = [
            Site(kind, layer) for layer, kinds in enumerate(self._wanted) for kind in sorted(kinds)
        ]

    def see(self, site: Site, value: Tensor) -> None:
        """Take a site's value; with the last one its layer is complete."""
        number = site.block
        self._raw[number][site.kind] = value
        if self._raw[number].keys() != self._wanted[number]:
            return
        self._tick()
        if not bool(self._raw[number]["resid_post"].sum().isfinite()):
            self._require_finite(number)
        raw = self._raw.pop(number)
        parts = frozenset(self._plan[number])
        layer = Layer(self._model, number, self._batch, raw, parts, self._before)
        with one_thread() if self._few else nullcontext():
            for metric in self._metrics.metrics:
                metric.update(layer)
        self._on_layer(layer)
        layer.close()
        self._before = layer

    def _require_finite(self, number: int) -> None:
        state = self._batch.every.take(self._raw[number]["resid_post"])
        if not bool(state.isfinite().all()):
            raise ActivationError(
                f"The model's activations hold NaN or infinity after layer {number}: check its "
                "weights and dtype (float16 overflows where bfloat16 or float32 do not)."
            )
