"""Every metric that is installed, by name."""

from __future__ import annotations

import importlib
import pkgutil
from collections.abc import Iterable, Mapping
from difflib import get_close_matches
from functools import cache
from typing import TYPE_CHECKING, Any, TypeVar

from layerlens.errors import InputError, SiteError
from layerlens.metrics.base import LayerMetric, ModelShape, WeightMetric

if TYPE_CHECKING:
    from layerlens.model.lensmodel import LensModel

MetricClass = type[LayerMetric] | type[WeightMetric]
_METRICS: dict[str, MetricClass] = {}
_C = TypeVar("_C", type[LayerMetric], type[WeightMetric])


def register(metric: _C) -> _C:
    """Add a metric under its name; use it as a decorator of the class."""
    if _METRICS.get(metric.name, metric).__qualname__ != metric.__qualname__:
        raise ValueError(f"two metrics are called {metric.name}")
    _METRICS[metric.name] = metric
    return metric


@cache
def _discover() -> None:
    package = importlib.import_module("layerlens.metrics")
    for module in pkgutil.iter_modules(package.__path__, "layerlens.metrics."):
        importlib.import_module(module.name)


def known() -> dict[str, MetricClass]:
    """Metrics that are registered so far, by name; nothing is imported."""
    return dict(_METRICS)


def every() -> dict[str, MetricClass]:
    """All metrics by name, in alphabetical order."""
    _discover()
    return {name: _METRICS[name] for name in sorted(_METRICS)}


def get(name: str) -> MetricClass:
    """Return the metric of this name.

    Raises
    ------
    InputError
        When there is none; names the nearest ones.
    """
    known = every()
    if name in known:
        return known[name]
    near = get_close_matches(str(name), known, n=3, cutoff=0.4)
    hint = f"did you mean {' or '.join(map(repr, near))}? " if near else ""
    raise InputError(f"Metric {name!r} is not known: {hint}ll.metrics() lists them all.")


def named(names: str | Iterable[str]) -> list[str]:
    """The names asked for, each once, all of them known.

    Raises
    ------
    InputError
        When one is not known, or there is none at all.
    """
    names = [names] if isinstance(names, str) else names
    found = list(dict.fromkeys(get(name).name for name in names))
    if not found:
        raise InputError("No metric was asked for: name at least one of ll.metrics().")
    return found


def make(
    name: str, model: LensModel, shape: ModelShape, options: Mapping[str, Any]
) -> LayerMetric | WeightMetric:
    """Make a metric for a model.

    Raises
    ------
    InputError
        When it, or an option, is not known.
    SiteError
        When the model has not what it reads, with the reason.
    """
    kind = get(name)
    known = kind.defaults()
    if unknown := [option for option in options if option not in known]:
        raise InputError(
            f"Option {unknown[0]!r} of {name} is not known: it has {', '.join(known) or 'none'}."
        )
    if reason := kind.missing(model):
        raise SiteError(f"{name} cannot be measured in {model.name}: {reason}")
    made = kind(shape, **{**known, **options})
    if isinstance(made, WeightMetric):
        made.prepare(model)
    return made
