"""Whether a label is still read when weights are rounded, numbers coarser, or noise is added."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from layerlens.analyses.contract.contract import Job, Variable, Work, analysis
from layerlens.analyses.contract.effects import among
from layerlens.analyses.contract.parts import with_interval
from layerlens.analyses.lenses.fitting.documents import read_rows, rows_of
from layerlens.analyses.probing.alone import check_alone
from layerlens.analyses.probing.asked import Task, points_of, require, task_of, where_of
from layerlens.analyses.probing.conditions import Condition, conditions_of
from layerlens.analyses.probing.controls import shuffled
from layerlens.analyses.probing.examples import Examples, Where, recorded
from layerlens.analyses.probing.folds import Folds, judged
from layerlens.analyses.probing.learner import Learner
from layerlens.analyses.probing.marks import marks_of
from layerlens.analyses.probing.numbers import concept_depth, mean_between
from layerlens.analyses.probing.plan import Plan
from layerlens.analyses.probing.states import Kept
from layerlens.errors import InputError

if TYPE_CHECKING:
    from layerlens.analyses.lenses.points import Point
    from layerlens.corpus.texts import Texts
    from layerlens.model.lensmodel import LensModel
    from layerlens.model.text import Tokens

DEFAULT_LIMIT = 1_000_000_000
UNDER = "condition"
AS_IT_IS, SHUFFLED, MAJORITY = "as it is", "shuffled labels", "majority"
_OVER = "texts or groups"
VARIABLES = {
    **with_interval(
        "accuracy",
        Variable((UNDER, "point"), "float64", "1", "share of examples told right"),
        _OVER,
    ),
    **with_interval(
        "change",
        Variable(
            (UNDER, "point"), "float64", "1", "accuracy above that of the model as it is",
            signed=True,
        ),
        f"{_OVER}, paired",
    ),
    "jumping_point": Variable((UNDER,), "float64", "1", "depth at which accuracy first jumps"),
    "converging_point": Variable(
        (UNDER,), "float64", "1", "depth from which on accuracy stands still"
    ),
}  # fmt: skip


def count_work(model: LensModel, tokens: Tokens | Texts, **options: Any) -> Work:
    """Count passes, bytes and operations of one call; reads the texts, runs nothing."""
    asked = ("bits", "weight_noise", "dtypes", "state_noise")
    under = conditions_of(model, *(options[name] for name in asked))
    points = len(points_of(model, options["site"], options["layers"]))
    rows = rows_of(model, tokens)
    fed = sum(len(row.ids) for row in rows)
    examples = fed if options["position"] == "each" else len(rows)
    states = 4.0 * examples * model.d_model * points
    weights = sum(p.numel() for p in model.hf.parameters()) * model.dtype.itemsize
    passes = 1 + sum(one.state_noise is None for one in under)
    return Work(passes, 0, int(2 * min(states, options["memory_limit"]) + weights), tokens=fed,
                operations=(2 + len(under)) * options["folds"] * 100 * states)  # fmt: skip


@analysis(
    name="probe_conditions",
    question="Does a label stay readable when the model's numbers are rounded or disturbed?",
    source="Jin et al. (2024), Exploring Concept Depth, arXiv 2404.07066 (noise and quantisation); "
    "symmetric round-to-nearest of all layers; paired bootstrap: Efron and Tibshirani (1993), An "
    "Introduction to the Bootstrap",
    cost="1 pass over the texts, and 1 for each condition",
    view="curves",
    lead="The lower a condition lies under the model as it is, the more of the label it costs at "
    "that depth. The change has an interval by the same examples: where that holds 0, nothing was "
    "seen to be lost.",
    variables=VARIABLES,
    work=count_work,
    pooled=True,
    corpus=True,
    positional=("labels",),
    effects={"spans": among("position", "span", "pair")},
)
def probe_conditions(
    job: Job,
    model: LensModel,
    tokens: Tokens | Texts,
    *,
    labels: Sequence[Any] | None = None,
    bits: int | Sequence[int] = (8, 4),
    weight_noise: float | Sequence[float] = (0.1,),
    dtypes: str | Sequence[str] = ("bfloat16",),
    state_noise: float | Sequence[float] = (0.5,),
    site: str = "resid_post",
    layers: Any = None,
    position: Any = -1,
    spans: Sequence[Any] | None = None,
    groups: Sequence[Any] | None = None,
    kind: str = "linear",
    folds: int = 5,
    strength: float = 1.0,
    seed: int = 0,
    memory_limit: int = DEFAULT_LIMIT,
) -> None:
    """Fit the same probe, on the same folds of the same texts, under several conditions.

    Parameters
    ----------
    labels
        Classes, one for each text (for each of its tokens where ``position="each"``). None: those
        of ``ll.texts(..., label=)``.
    bits
        The linear weights of all blocks are rounded to so many, symmetrically, a scale for each
        output channel; () for none.
    weight_noise
        Gaussian noise on these weights, in standard deviations of each matrix; () for none.
    dtypes
        ``"float32"``, ``"bfloat16"``, ``"float16"``: a copy of the model computes in it; () for
        none.
    state_noise
        Gaussian noise on the states that the probe reads, learning and judged, as a share of each
        one's root mean square; () for none.
    site
        ``resid_post`` (and the embedding), ``resid_mid``, ``attn_out``, ``mlp_out``.
    layers
        Which; None for all, with the embedding.
    position
        Where states are read: an index, ``"mean"`` of all tokens, ``"each"`` token (an example
        each), or ``"span"``: the mean over `spans`.
    spans
        For each text its first position and the one behind its last.
    groups
        Of each text: those of one group never stand on both sides. None: those of
        ``ll.texts(..., group=)``, and where there are none every text is one.
    kind
        Of the probe, as in `layerlens.probe`.
    folds
        Parts that are judged in turn by what was learned from the others.
    strength
        ``C`` of the probe: the larger, the less its weights are held small.
    seed
        Of folds, noise and shuffled labels.
    memory_limit
        Bytes of the states of one condition; more go to a file while the call lasts.

    Notes
    -----
    The probe is fitted anew under each condition: what is asked is whether the label is still
    *there*, not whether an old probe still fits. ``change`` is zero at the embedding for conditions
    of weights, as these are those of the blocks. Its interval draws examples (groups) anew, each
    with both of its answers.

    Raises
    ------
    InputError
        Labels or options do not fit, there are too few texts, or the weights are quantised
        already or shared between layers.
    ActivationError
        The model's activations hold NaN or infinity under a condition.

    Examples
    --------
    >>> import layerlens as ll
    >>> model = ll.load("toy:induction")
    >>> texts = [f"{a} {b} fox {a}" for a in ("cat", "dog", "owl") for b in ("bee", "ant", "emu")]
    >>> found = ll.probe_conditions(
    ...     model, texts, [text[:3] for text in texts], bits=8, weight_noise=(), folds=3
    ... )
    >>> found.data.condition.values.tolist()[:3]
    ['as it is', 'weights of 8 bits', 'bfloat16']
    """
    require(kind, "shuffle", "accuracy", folds, strength)
    under = conditions_of(model, bits, weight_noise, dtypes, state_noise)
    work = _Comparing(job, model, points_of(model, site, layers), where_of(position, spans), kind,
                      strength, folds, seed, memory_limit)  # fmt: skip
    work.run(tokens, under, *marks_of(job, labels, groups))


class _Comparing:
    """The work of one call."""

    def __init__(
        self,
        job: Job,
        model: LensModel,
        points: Sequence[Point],
        where: Where,
        kind: str,
        strength: float,
        folds: int,
        seed: int,
        memory_limit: int,
    ) -> None:
        self.job, self.model, self.points, self.where = job, model, points, where
        self.kind, self.strength, self.n_folds, self.seed = kind, strength, folds, seed
        self.limit, self.learner = memory_limit, Learner(kind, seed)
        self.passes = 0

    def run(
        self,
        texts: Tokens | Texts,
        under: Sequence[Condition],
        labels: Sequence[Any],
        groups: Sequence[Any] | None,
    ) -> None:
        """The model as it is, then each condition; and that it is as it was afterwards."""
        plain = self._record(self.model, texts)
        self.task, self.kept = task_of(labels, groups, plain, self.where)
        if self.task.numbers:
            raise InputError(
                "probe_conditions tells classes apart, and these labels are numbers with a "
                "fraction: give classes."
            )
        self.folds = Folds.of(self.task, self.n_folds, self.seed)
        self._declare([AS_IT_IS, *(one.name for one in under), SHUFFLED, MAJORITY])
        self.right = self._judge(AS_IT_IS, Condition(), plain, self.task)
        self._judge(SHUFFLED, Condition(), plain, shuffled(self.task, self.seed))
        for one in under:
            if one.state_noise is not None:
                self._judge(one.name, one, plain, self.task)
                continue
            with one.on(self.model, self.seed) as other:
                found = self._record(other, texts)
            self._judge(one.name, one, found, self.task)
        rows = read_rows(self.model, texts)
        check_alone(self.job, self.model, rows, self.points, self.where, plain.states)
        self.job.note(passes=self.passes, examples=len(self.task.labels), probe=self.kind,
                      classes=[str(name) for name in self.task.classes])  # fmt: skip

    def _record(self, model: LensModel, texts: Tokens | Texts) -> Examples:
        self.passes += 1
        return recorded(model, texts, self.points, self.where, self.limit, self.job.tick)

    def _declare(self, rows: Sequence[str]) -> None:
        self.rows = list(rows)
        self.job.declare(
            {UNDER: len(rows), "point": len(self.points)},
            {
                UNDER: ((UNDER,), np.array(rows)),
                "point": (("point",), np.array([point.label for point in self.points])),
                "layer": (("point",), np.array([p.layer for p in self.points], dtype=np.int32)),
            },
        )
        share, nothing = np.full(len(self.points), self.task.majority), np.array(np.nan)
        arrays = dict.fromkeys(("accuracy", "accuracy_low", "accuracy_high"), share)
        self.job.emit({UNDER: self.rows.index(MAJORITY)}, arrays)
        for row in (SHUFFLED, MAJORITY):
            where = {UNDER: self.rows.index(row)}
            for name in ("change", "change_low", "change_high"):
                self.job.emit(where, {name: np.full(len(self.points), np.nan)})
            self.job.emit(where, {"jumping_point": nothing, "converging_point": nothing})

    def _judge(self, row: str, under: Condition, found: Examples, task: Task) -> np.ndarray:
        """Probes of all points under one condition: ``[point, n]``, 1 where right."""
        number, right, accuracy = self.rows.index(row), [], []
        plan = Plan({row: task}, self.folds, set(), set(), self.strength, self.learner)
        for place, states in enumerate(Kept(found.states, self.kept)):
            self.job.tick()
            own = under.blurred(states, self.seed + place)
            said = judged(own, task, self.folds, plan.learn(own)[row].folds)
            right.append(said.right)
            accuracy.append(said.numbers["accuracy"])
            arrays = {name: np.array(value) for name, value in said.numbers.items()
                      if name.startswith("accuracy")}  # fmt: skip
            if row != SHUFFLED:
                before = said.right if row == AS_IT_IS else self.right[place]
                mean, low, high = map(np.array, mean_between(said.right - before, task.unit))
                arrays |= {"change": mean, "change_low": low, "change_high": high}
            self.job.emit({UNDER: number, "point": place}, arrays)
            self.job.progress(number * len(self.points) + place + 1,
                              len(self.rows) * len(self.points), row)  # fmt: skip
        blocks = [place for place, point in enumerate(self.points) if point.layer >= 0]
        if row != SHUFFLED:
            depth = (concept_depth([accuracy[place] for place in blocks]) if len(blocks) > 1
                     else {})  # fmt: skip
            ends = {name: np.array(depth.get(name, np.nan))
                    for name in ("jumping_point", "converging_point")}  # fmt: skip
            self.job.emit({UNDER: number}, ends)
        return np.stack(right)
