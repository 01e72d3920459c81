"""The roles of all heads in one table, beside what attention that is even would score."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from layerlens.analyses.attention.head_cells import open_looks
from layerlens.analyses.attention.head_looks import ROLES, HeadLooks
from layerlens.analyses.contract.contract import Job, Variable, Work, analysis
from layerlens.analyses.measuring.head_scores import count_work as count_scores
from layerlens.analyses.measuring.head_scores import repeated_tokens, usual_length
from layerlens.errors import InputError
from layerlens.metrics.attention import DETECTOR
from layerlens.metrics.base import ModelShape
from layerlens.metrics.batch import split
from layerlens.metrics.collection import MetricSet
from layerlens.metrics.runner import run_metrics
from layerlens.model.integers import whole

if TYPE_CHECKING:
    from layerlens.metrics.layer import Layer
    from layerlens.model.lensmodel import LensModel

_EACH = ("layer", "head", "role")
_CELL = ("layer", "head")
VARIABLES = {
    "score": Variable(_EACH, "float64", "1", "attention to what the role looks at"),
    "score_low": Variable(_EACH, "float64", "1", "lower end of the 95 % interval over sequences"),
    "score_high": Variable(_EACH, "float64", "1", "upper end of the 95 % interval over sequences"),
    "best_role": Variable(_CELL, "int32", "1", "role with the most beyond chance, by its number"),
    "best_score": Variable(_CELL, "float64", "1", "attention to what that role looks at"),
    "chance": Variable(
        ("layer", "role"), "float64", "1", "the same of a head that looks at all it can see alike"
    ),
}


def count_work(
    model: LensModel, *, length: int | None, sequences: int, threshold: float, seed: int
) -> Work:
    """Count passes, rows through the head and bytes of one call; runs nothing."""
    return count_scores(model, length=length, sequences=sequences, seed=seed)


@analysis(
    name="head_roles",
    question="Which role has each head, and how far is it from chance?",
    source="Olsson et al. (2022), In-context Learning and Induction Heads, arXiv 2209.11895; "
    f"Clark et al. (2019), arXiv 1906.04341; {DETECTOR}",
    cost="1 pass over random tokens",
    view="grid",
    variables=VARIABLES,
    work=count_work,
    inputs=(),
    pooled=True,
    needs=("attention",),
    lead="Each cell is the share of a head's attention that goes where heads of the role look, on "
    "random tokens that repeat; chance is what attention that is even would give.",
    opens=open_looks,
)
def head_roles(
    job: Job,
    model: LensModel,
    *,
    length: int | None = None,
    sequences: int = 4,
    threshold: float = 0.3,
    seed: int = 0,
) -> None:
    """Score every head for every role on random tokens that repeat, beside chance.

    The sequences are those of ``ll.head_scores``: the BOS token, ``length`` random tokens that
    all differ, and the same once more. Whether a head plays its role on real texts is another
    question, which ``ll.attention`` and the metrics of ``ll.layer_metrics`` answer.

    Parameters
    ----------
    length
        Tokens before they repeat; None as in ``ll.head_scores``.
    sequences
        How many are fed; intervals are over them.
    threshold
        How far above chance a score has to be for a head to have the role.
    seed
        Of the random tokens.

    Notes
    -----
    ``score`` over ``layer``, ``head`` and ``role`` is a mean over the queries that have a key of
    the role; ``chance`` is the same of attention that is even over all visible keys. Roles
    overlap (at the second token the token before is the first one), so scores need not sum to 1.
    ``best_role`` is the number of the role whose score is furthest above chance, -1 where none
    is by ``threshold``. ``.to_pandas("score")`` is one table of it all.

    Raises
    ------
    InputError
        ``length`` does not fit the vocabulary or the context.

    Examples
    --------
    >>> import layerlens as ll
    >>> found = ll.head_roles(ll.load("toy:induction")).data
    >>> roles = found.role.values[found.best_role.values[found.best_role.values >= 0]]
    >>> "induction" in roles
    True
    """
    length = usual_length(model) if length is None else whole(length, "length")
    if not 0 <= threshold < 1:
        raise InputError(f"threshold is {threshold}; expected a share from 0 to below 1.")
    tokens = job.tokens(repeated_tokens(model, length, sequences, seed))
    for note in tokens.notes:
        job.remark(note)
    shape = ModelShape.of(model)
    sizes = {axis: shape.sizes[axis] for axis in _CELL} | {"role": len(ROLES)}
    coords = {axis: shape.coords[axis] for axis in _CELL}
    job.declare(sizes, {**coords, "role": (("role",), np.array(list(ROLES)))})
    looks = HeadLooks(shape)
    batches = split(tokens)
    steps = iter(range(1, len(batches) * model.n_layers + 1))

    def show(layer: Layer) -> None:
        values = looks.value(False)
        scores = np.stack([values[role][layer.number] for role in ROLES], -1)
        job.emit({"layer": layer.number}, {"score": scores})
        job.progress(next(steps), len(batches) * model.n_layers, f"layer {layer.number}")

    metrics = MetricSet(shape, [looks], 1)
    passes = run_metrics(model, batches, metrics, tick=job.tick, on_layer=show)
    job.note(passes=passes, fed=tokens.ids.shape[1])
    _conclude(job, looks, threshold)


def _conclude(job: Job, looks: HeadLooks, threshold: float) -> None:
    """Hand over scores with their intervals, chance, and the role of each head."""
    values = looks.value()
    found = {
        f"score{end}": np.stack([values[role + end] for role in ROLES], -1)
        for end in ("", "_low", "_high")
    }
    chance = np.stack([values[f"{role}_chance"] for role in ROLES], -1)
    above = np.nan_to_num(found["score"] - chance[:, None], nan=-1.0)
    best = above.argmax(-1)
    has = above.max(-1) > threshold
    score = np.take_along_axis(found["score"], best[..., None], -1)[..., 0]
    role = np.where(has, best, -1)
    job.emit({}, {**found, "chance": chance, "best_role": role, "best_score": score})
    total = found["score"][..., list(ROLES).index("previous_token")]
    total = total + found["score"][..., list(ROLES).index("self")]
    over = float(np.nanmax(total, initial=0) - 1)
    job.check("shares", max(over, 0), 1e-5, "attention to two keys of one query beyond 1")
