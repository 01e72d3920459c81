"""Any analysis or metric along a training, one checkpoint after the other."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from layerlens.analyses.contract.asking import Analysis
from layerlens.analyses.contract.contract import Dose, Job, Variable, Work, analysis
from layerlens.analyses.contract.estimate import operations_of
from layerlens.analyses.contract.options import nearest
from layerlens.analyses.contract.registry import get, names
from layerlens.analyses.measuring.series_run import SeriesRun
from layerlens.errors import InputError
from layerlens.metrics import registry
from layerlens.model.lensmodel import LensModel
from layerlens.model.runs import Runs

if TYPE_CHECKING:
    pass

VARIABLES: dict[str, Variable] = {}
"""Those of the analysis that is asked, each with the axis ``run`` before its own."""


def count_work(
    model: LensModel | Runs,
    *,
    ask: str | Analysis | None,
    texts: Any,
    options: Mapping[str, Any] | None,
) -> Work:
    """Count passes, operations and bytes of all runs; runs nothing."""
    runs = _runs(model)
    inner, full = asked(ask, options)
    first, count = runs.model(0), len(runs.labels)
    fed, work = inner.counted(first, list(given_texts(inner, texts).values()), full)
    tokens, operations = operations_of(first, fed, work)
    return Work(
        count * work.passes, 0, work.bytes, tokens=tokens,
        operations=count * operations, steps=count * work.steps,
    )  # fmt: skip


@analysis(
    name="series",
    question="How does an answer change along a training?",
    source="that of what is asked",
    cost="what is asked, once for each run",
    view="panels",
    lead="A curve runs through the training, from its first step to its last. Where each step has "
    "a picture of its own, the slider goes from one to the next.",
    variables=VARIABLES,
    work=count_work,
    inputs=(),
    pooled=True,
    positional=("ask", "texts"),
    runs=True,
    doses=[Dose("", (), "step of the training", dim="run")],
)
def series(
    job: Job,
    model: LensModel | Runs,
    *,
    ask: str | Analysis | None = None,
    texts: Any = None,
    options: Mapping[str, Any] | None = None,
) -> None:
    """Ask one question at each moment of a training, and put the answers side by side.

    The first argument is ``ll.Runs``: ``ll.Runs("toy:modular")``, or ``ll.Runs({100: model, 200:
    other})`` of models from ``ll.load``. Every array of the answer has an axis ``run`` before
    its own.

    Parameters
    ----------
    ask
        The name of an analysis, or of a metric of ``ll.layer_metrics``, or the analysis itself.
    texts
        What it is asked about, as it takes it; of an analysis of several texts a mapping from the
        name of each. None for one that takes none.
    options
        Its options.

    Notes
    -----
    ``checks`` holds each check of the analysis once, as it was at the run where it is nearest to
    its limit or furthest beyond. A run is compared with nothing: what a first run (before the
    training) says is the control of those that follow.

    Raises
    ------
    InputError
        There is no such analysis or metric, it follows a training by itself, what it is given does
        not fit, or the axes of its answer are not the same for every run.

    Examples
    --------
    >>> import layerlens as ll
    >>> runs = ll.Runs("toy:modular")
    >>> found = ll.series(runs, "weight_norm", "57 + 88 =").data
    >>> found.weight_norm.dims, found.run.values[:4].tolist()
    (('run', 'layer', 'projection'), [0, 50, 100, 150])
    """
    runs = _runs(model)
    inner, full = asked(ask, options)
    SeriesRun(job, runs, inner, given_texts(inner, texts), full).run()


def asked(
    ask: str | Analysis | None, options: Mapping[str, Any] | None
) -> tuple[Analysis, dict[str, Any]]:
    """The analysis, and its options; a metric is one of ``layer_metrics``.

    Raises
    ------
    InputError
        There is neither such an analysis nor such a metric, or it takes runs by itself.
    """
    full = dict(options or {})
    if isinstance(ask, str) and ask in registry.every():
        return get("layer_metrics"), {"metrics": [ask], **full}
    if isinstance(ask, str) and ask not in names():
        raise nearest(ask, [*names(), *registry.every()], "Analysis or metric")
    if ask is None:
        raise InputError("series needs what to ask: the name of an analysis or a metric.")
    inner = get(ask)
    if inner.runs:
        raise InputError(f"{inner.name} takes ll.Runs by itself: call ll.{inner.name}(runs, ...).")
    return inner, full


def given_texts(inner: Analysis, texts: Any) -> dict[str, Any]:
    """The texts of an analysis by their names.

    Raises
    ------
    InputError
        There are too many or too few.
    """
    if not inner.inputs:
        if texts is not None:
            raise InputError(f"{inner.name} takes no text: leave texts out.")
        return {}
    if texts is None:
        raise InputError(f"{inner.name} needs {' and '.join(inner.inputs)}: give texts.")
    if len(inner.inputs) == 1:
        return {inner.inputs[0]: texts}
    if not isinstance(texts, Mapping) or set(texts) != set(inner.inputs):
        wanted = ", ".join(f"{name!r}: ..." for name in inner.inputs)
        raise InputError(f"{inner.name} compares texts: give texts={{{wanted}}}.")
    return dict(texts)


def _runs(model: LensModel | Runs) -> Runs:
    """The runs, of models.

    Raises
    ------
    InputError
        They are of torch networks, which analyses do not take.
    """
    runs = model if isinstance(model, Runs) else Runs(model)
    if not runs.texts:
        raise InputError("series asks models: give ll.Runs of models from ll.load.")
    return runs
