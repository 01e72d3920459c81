"""How good the states of each layer are for a task, beside numbers that need no task."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from layerlens.analyses.contract.contract import Job, Variable, Work, analysis
from layerlens.analyses.contract.effects import left_out
from layerlens.analyses.contract.options import nearest
from layerlens.analyses.contract.parts import with_interval
from layerlens.analyses.lenses.fitting.documents import rows_of
from layerlens.analyses.measuring.measuring_run import variables_of
from layerlens.analyses.probing.aligned_pairs import POOLS
from layerlens.analyses.probing.asked import points_of, require
from layerlens.analyses.probing.scoring import METRIC, OF, Scoring
from layerlens.errors import InputError
from layerlens.metrics import registry
from layerlens.metrics.collection import MetricSet

if TYPE_CHECKING:
    from layerlens.model.lensmodel import LensModel
    from layerlens.model.text import Tokens

DEFAULT = ("matrix_entropy", "dataset_entropy", "curvature", "intrinsic_dimension", "anisotropy")
MEASURES = {
    name: variables_of(metric)[name]
    for name, metric in registry.every().items()
    if name in metric.outputs and metric.outputs[name].axes == ("point",)
}
"""Metrics that have one number for each state between layers."""
VARIABLES = {
    **with_interval(
        "score",
        Variable((OF, "point"), "float64", "1", "share of texts that a probe tells right"),
        "texts, groups or pairs",
    ),
    "correlation": Variable(
        (METRIC,), "float64", "1", "Spearman correlation over layers of a metric with the score",
        signed=True,
    ),
    "chance_low": Variable(
        (METRIC,), "float64", "1", "lower end of 95 % of correlations with layers in random order",
        signed=True,
    ),
    "chance_high": Variable(
        (METRIC,), "float64", "1", "upper end of 95 % of correlations with layers in random order",
        signed=True,
    ),
    "p": Variable((METRIC,), "float64", "1", "share of random orders at least as correlated"),
    "p_shifted": Variable(
        (METRIC,), "float64", "1", "share of shifts of the curve at least as correlated"
    ),
    **MEASURES,
}  # fmt: skip


def count_work(
    model: LensModel, tokens: Tokens, *, metrics: Any, others: Any, folds: int, **_: Any
) -> Work:
    """Count passes and bytes of one call; runs nothing."""
    rows = rows_of(model, tokens)
    points = len(points_of(model, "resid_post", None))
    made = MetricSet.make(model, list(_chosen(metrics)))
    kept = sum(array.nbytes for metric in made.metrics for array in metric.arrays.values())
    states = 4 * len(rows) * model.d_model * points
    fits = 0.0 if others is not None else 2 * folds * 100.0 * states
    fed = sum(len(row.ids) for row in rows)
    sides = 1 if others is None else 2
    return Work(1 + sides, 0, sides * states + kept, tokens=fed, operations=fits)


@analysis(
    name="sentence_scores",
    question="Which number that needs no task tells at which layer the states serve a task best?",
    source="Skean et al. (2025), Layer by Layer: Uncovering Hidden Representations in Language "
    "Models, arXiv 2502.02013; pairs: Cer et al. (2017), SemEval-2017 Task 1: Semantic Textual "
    "Similarity, arXiv 1708.00055",
    cost="1 pass over the texts for the task (and one over their partners), and 1 for all metrics",
    view="panels",
    lead="The first curve is how well the states of each layer serve the task. A metric whose "
    "curve rises and falls with it has a correlation beyond what layers in a random order reach; "
    "as neighbouring layers are alike, the share of shifted curves is the harder test.",
    variables=VARIABLES,
    work=count_work,
    pooled=True,
    positional=("labels",),
    effects={name: left_out("others") for name in ("folds", "strength", "groups")},
)
def sentence_scores(
    job: Job,
    model: LensModel,
    tokens: Tokens,
    *,
    labels: Sequence[Any] | None = None,
    others: Any = None,
    scores: Sequence[float] | None = None,
    metrics: str | Sequence[str] | None = None,
    pool: str = "mean",
    groups: Sequence[Any] | None = None,
    folds: int = 5,
    strength: float = 1.0,
    skip_first: bool | int = True,
    seed: int = 0,
) -> None:
    """Score a task at each layer, and correlate metrics of the same layers with it.

    Parameters
    ----------
    labels
        One for each text: a linear probe tells them apart (for floats, predicts them), judged on
        texts that it was not fitted on. None: those of ``ll.texts(..., label=)``.
    others
        In place of labels: the partner of each text. The score is then Spearman's correlation of
        the cosines of both texts' states with `scores`, over pairs.
    scores
        How alike the two texts of each pair are, as people say.
    metrics
        Names from ``ll.metrics()`` that have one number for each state between layers; None for
        ``matrix_entropy``, ``dataset_entropy``, ``curvature``, ``intrinsic_dimension`` and
        ``anisotropy``.
    pool
        What stands for a text in the task: the ``"mean"`` of the states of its tokens, or the
        ``"last"`` one; special tokens left aside.
    groups
        Of each text: those of one group never stand on both sides of a fold. None: those of
        ``ll.texts(..., group=)``, and where there are none every text is one.
    folds
        Parts that are judged in turn by what was learned from the others.
    strength
        ``C`` of the probe: the larger, the less weights are held small.
    skip_first
    seed
        Of folds, of labels or scores that are dealt out anew, and of layers in a random order.

    Notes
    -----
    ``correlation`` is over ``point``, the embedding included. With some thirty layers, and curves
    that change slowly, a random order reaches far less than any two smooth curves do:
    ``p_shifted`` counts turns of one curve and their mirror images instead, of which there are
    twice as many as points, so that it is never below one over that. That a metric goes with one
    task on one model says little of another.

    Raises
    ------
    InputError
        Neither labels nor others with scores are given, they do not fit, or a metric has another
        axis.
    ActivationError
        The model's activations hold NaN or infinity.

    Examples
    --------
    >>> import layerlens as ll
    >>> model = ll.load("toy:induction")
    >>> texts = [f"{a} {b} fox {a}" for a in ("cat", "dog", "owl") for b in ("bee", "ant", "emu")]
    >>> found = ll.sentence_scores(
    ...     model, texts, [text[:3] for text in texts], metrics="matrix_entropy", folds=3
    ... )
    >>> found.data.score.dims, found.data.correlation.dims
    (('of', 'point'), ('metric',))
    """
    require("linear", "shuffle", "accuracy", folds, strength)
    if pool not in POOLS:
        raise nearest(pool, POOLS, "Pool")
    if (others is None) != (scores is None):
        raise InputError(
            "Pairs need both others= (the partner of each text) and scores= (how alike they are)."
        )
    if others is not None and labels is not None:
        raise InputError("Give labels of texts, or others and scores of pairs, but not both.")
    work = Scoring(job, model, tokens, pool, strength, folds, seed)
    names = _chosen(metrics)
    made = MetricSet.make(model, list(names), skip_first=skip_first)
    if others is None:
        work.by_labels(names, labels, groups)
    else:
        assert scores is not None  # both or none, as was looked at above
        work.by_pairs(names, job.tokens(others), scores)
    work.measure(made)


def _chosen(metrics: str | Sequence[str] | None) -> tuple[str, ...]:
    """Metrics with one number for each state.

    Raises
    ------
    InputError
        For one with other axes.
    """
    names = tuple(registry.named(DEFAULT if metrics is None else metrics))
    for name in names:
        if name not in MEASURES:
            raise InputError(
                f"{name} has not one number for each state between layers, so it cannot be held "
                f"against the score: choose among {', '.join(MEASURES)}."
            )
    return names
