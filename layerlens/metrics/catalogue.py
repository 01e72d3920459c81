"""What can be picked: each metric in words, under a heading, and whether a model can give it."""

from __future__ import annotations

from typing import TYPE_CHECKING, TypedDict

from layerlens.metrics import registry
from layerlens.metrics.base import LayerMetric, WeightMetric

if TYPE_CHECKING:
    from layerlens.model.lensmodel import LensModel

FAMILIES = (
    "residual stream",
    "depth use",
    "representation",
    "similarity",
    "attention",
    "MLP",
    "weights",
    "other",
)
"""Headings, in the order in which they are shown."""

_HEADINGS = {
    "residual stream": ("stream", "angles", "variance", "massive", "number_range", "spread"),
    "depth use": ("importance", "voids"),
    "representation": (
        "curvature", "entropy", "dataset_entropy", "homogenisation", "intrinsic",
        "self_similarity", "invariance",
    ),
    "similarity": ("cka", "cka_exact", "cca", "neighbours", "procrustes", "rsa"),
    "attention": ("attention",),
}  # fmt: skip
_BY_FILE = {file: heading for heading, files in _HEADINGS.items() for file in files}

_ATTENTION = {"pattern", "attn_scores", "q", "k", "v", "rot_q", "rot_k", "z"}
_MLP = {"mlp_pre", "mlp_post"}


class Entry(TypedDict):
    """One metric of the catalogue; `why` says why a model cannot give it, else it is empty."""

    name: str
    long_name: str
    question: str
    formula: str
    units: str
    source: str
    cost: str
    axes: list[str]
    family: str
    outputs: list[str]
    why: str


def catalogue(model: LensModel | None = None) -> list[Entry]:
    """Return every metric, by heading and then by name.

    Parameters
    ----------
    model : LensModel, optional
        The model that is to give them.
    """
    found = [
        entry(name, "" if model is None else metric.missing(model) or "")
        for name, metric in registry.every().items()
    ]
    return sorted(found, key=lambda one: (FAMILIES.index(one["family"]), one["name"]))


def entry(name: str, why: str = "") -> Entry:
    """Return what is said of one metric.

    Raises
    ------
    InputError
        There is none of this name.
    """
    metric = registry.get(name)
    return Entry(
        name=name,
        long_name=metric.outputs[name].long_name,
        question=metric.question,
        formula=metric.formula,
        units=metric.units,
        source=metric.source,
        cost=metric.cost,
        axes=list(metric.axes),
        family=family(metric),
        outputs=list(metric.outputs),
        why=why,
    )


def family(metric: registry.MetricClass) -> str:
    """Return the heading of a metric: that of its file, else that of what it reads."""
    if issubclass(metric, WeightMetric):
        return "weights"
    file = metric.__module__.rpartition(".")[2]
    if file in _BY_FILE:
        return _BY_FILE[file]
    parts = set(metric.parts) if issubclass(metric, LayerMetric) else set()
    if parts & _ATTENTION:
        return "attention"
    if parts & _MLP:
        return "MLP"
    return "similarity" if any(axis.endswith("_other") for axis in metric.axes) else "other"
