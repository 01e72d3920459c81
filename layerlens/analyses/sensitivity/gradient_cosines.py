"""How alike the gradients of one text are in two matrices: of two layers, or of one."""

from __future__ import annotations

from collections.abc import Mapping

from layerlens.analyses.sensitivity.factors import Factors, Shared, inner
from layerlens.analyses.sensitivity.projection_gradients import Gradients, Place, between

COUPLES = {"qo": ("q", "o"), "kv": ("k", "v")}
"""Projections of one layer whose gradients are compared, as published."""

Norms = Mapping[str, float]
"""Projection to the norm of its gradient."""


def with_layer_above(
    own: Gradients, above: Gradients, norms: Norms, norms_above: Norms
) -> dict[str, float]:
    """Cosine of each projection's gradient with the one a layer above has; where shapes agree."""
    shared: Shared = {}
    return {
        name: _cosine(between(own[name], above[name], shared), norms[name] * norms_above[name])
        for name in own.keys() & above.keys()
        if _shapes(own[name]) == _shapes(above[name])
    }


def within_layer(own: Gradients, norms: Norms) -> dict[str, float]:
    """Cosine of the gradients of q and o, and of k and v, entry by entry; where shapes agree."""
    found = {}
    for couple, (first, second) in COUPLES.items():
        one, other = (_alone(own.get(name, {})) for name in (first, second))
        if one is not None and other is not None and one.shape == other.shape:
            found[couple] = _cosine(inner(one, other), norms[first] * norms[second])
    return found


def _alone(places: Mapping[Place, Factors]) -> Factors | None:
    """The one matrix of a projection; None where it has several or none."""
    return next(iter(places.values())) if len(places) == 1 else None


def _shapes(places: Mapping[Place, Factors]) -> dict[Place, tuple[int, int]]:
    return {place: factors.shape for place, factors in places.items()}


def _cosine(product: float, size: float) -> float:
    return product / size if size else float("nan")
