"""Several metrics that are fed by the same passes."""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping
from dataclasses import asdict
from typing import TYPE_CHECKING, Any, Self

import numpy as np

from layerlens.errors import InputError
from layerlens.metrics import registry
from layerlens.metrics.base import Arrays, LayerMetric, ModelShape, Output

if TYPE_CHECKING:
    from layerlens.metrics.batch import Batch
    from layerlens.model.lensmodel import LensModel

FORMAT = 1
"""Version of the stored state."""


class MetricSet:
    """Metrics that go through the same passes, and how many texts and tokens they have seen.

    Parameters
    ----------
    shape
        Sizes of the model.
    metrics
        Made for this shape.
    skip_first
        How many tokens at the beginning of each text do not count.

    Attributes
    ----------
    texts, tokens, kept
        Texts and tokens fed, padding aside, and how many tokens counted.
    """

    def __init__(
        self, shape: ModelShape, metrics: Iterable[LayerMetric], skip_first: int = 1
    ) -> None:
        self.shape = shape
        self.metrics = list(metrics)
        self.skip_first = int(skip_first)
        self.texts = self.tokens = self.kept = 0
        if self.skip_first < 0:
            raise InputError(f"skip_first is {skip_first}; expected a bool, or a number from 0.")

    @classmethod
    def make(
        cls,
        model: LensModel,
        names: str | Iterable[str],
        *,
        skip_first: bool | int = True,
        options: Mapping[str, Mapping[str, Any]] | None = None,
    ) -> Self:
        """Make the metrics of these names for a model; those of weights only are left out.

        Parameters
        ----------
        options
            Name of a metric -> its options.

        Raises
        ------
        InputError
            When a metric or an option is not known.
        SiteError
            When the model has not what a metric reads.
        """
        shape = ModelShape.of(model)
        chosen = registry.named(names)
        given = {} if options is None else options
        if not isinstance(given, Mapping) or not all(
            isinstance(own, Mapping) for own in given.values()
        ):
            raise InputError(
                f"The options of metrics are {given!r}; expected the name of a metric to its "
                "options, such as {'angular_distance': {'token': 'last'}}."
            )
        if unknown := [name for name in given if name not in chosen]:
            raise InputError(f"Options were given for {unknown[0]}, which was not asked for.")
        made = []
        for name in chosen:
            metric = registry.make(name, model, shape, given.get(name, {}))
            if isinstance(metric, LayerMetric):
                made.append(metric)
        return cls(shape, made, int(skip_first))

    @property
    def parts(self) -> set[str]:
        """All parts of a layer that are read."""
        return {part for metric in self.metrics for part in metric.parts}

    @property
    def outputs(self) -> dict[str, Output]:
        """What all of them give, by name."""
        return {name: output for m in self.metrics for name, output in m.outputs.items()}

    def count(self, batch: Batch) -> None:
        """Count the texts and tokens of a finished pass."""
        self.texts += len(batch)
        self.tokens += len(batch.every)
        self.kept += len(batch.kept)

    def values(self, intervals: bool = True, *, streamed: bool = False) -> Arrays:
        """The arrays of all metrics as they stand.

        Parameters
        ----------
        intervals
            Those of means, too.
        streamed
            Only of metrics that say more with each layer, not at the end of a pass.
        """
        found: Arrays = {}
        for metric in self.metrics:
            if not streamed or type(metric).end is LayerMetric.end:
                found.update(metric.value(intervals))
        return found

    def merge(self, other: Self) -> None:
        """Take in what another set saw of other texts; see :meth:`LayerMetric.merge`.

        Sums are float64 and their order is all that differs from one run over all texts: the
        results agree to about 1e-12, and bit by bit where each group of texts (see
        ``layerlens.metrics.batch.GROUPS``) was seen by one of the two.

        Raises
        ------
        InputError
            When the sets were not made alike.
        """
        alike = [type(m) for m in self.metrics] == [type(m) for m in other.metrics]
        if not alike or self.skip_first != other.skip_first:
            raise InputError(
                "These metrics cannot be merged: both sets have to hold the same metrics, in the "
                "same order, with the same skip_first."
            )
        for mine, theirs in zip(self.metrics, other.metrics, strict=True):
            mine.merge(theirs)
        self.texts += other.texts
        self.tokens += other.tokens
        self.kept += other.kept

    def empty(self) -> Self:
        """Another set made alike, that has seen nothing."""
        metrics = [type(metric)(self.shape, **metric.options) for metric in self.metrics]
        return type(self)(self.shape, metrics, self.skip_first)

    def state(self) -> tuple[dict[str, np.ndarray], str]:
        """All that was seen: arrays (fit for safetensors), and the rest as JSON."""
        arrays = {
            f"{metric.name}.{name}": np.ascontiguousarray(array)
            for metric in self.metrics
            for name, array in metric.state().items()
        }
        about = {
            "format": FORMAT,
            "shape": asdict(self.shape),
            "metrics": {metric.name: metric.options for metric in self.metrics},
            "skip_first": self.skip_first,
            "seen": [self.texts, self.tokens, self.kept],
        }
        return arrays, json.dumps(about)

    @classmethod
    def from_state(cls, arrays: Mapping[str, np.ndarray], about: str) -> Self:
        """Make a set that goes on from a stored state.

        Raises
        ------
        InputError
            When the state was written by another version or does not fit its metrics.
        """
        told = json.loads(about)
        if told.get("format") != FORMAT:
            raise InputError(
                f"The stored state has format {told.get('format')}, this version reads {FORMAT}: "
                "begin anew."
            )
        shape = ModelShape(**told["shape"])
        metrics = []
        for name, options in told["metrics"].items():
            kind = registry.get(name)
            if not issubclass(kind, LayerMetric):
                raise InputError(f"{name} is computed from weights alone and has no state.")
            lead = f"{name}."
            own = {key.removeprefix(lead): a for key, a in arrays.items() if key.startswith(lead)}
            metrics.append(kind.from_state(shape, options, own))
        found = cls(shape, metrics, told["skip_first"])
        found.texts, found.tokens, found.kept = told["seen"]
        return found
