"""The work of one call of ``ll.sentence_scores``: a task's score, metrics, and how both agree."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from layerlens.analyses.lenses.fitting.documents import rows_of
from layerlens.analyses.probing.aligned_pairs import spans_of
from layerlens.analyses.probing.alone import check_alone
from layerlens.analyses.probing.asked import points_of, task_of
from layerlens.analyses.probing.controls import shuffled
from layerlens.analyses.probing.examples import Examples, recorded
from layerlens.analyses.probing.folds import Folds, judged
from layerlens.analyses.probing.learner import Learner
from layerlens.analyses.probing.marks import marks_of
from layerlens.analyses.probing.matched import matched
from layerlens.analyses.probing.plan import Plan
from layerlens.analyses.probing.rank_correlation import against_chance, between
from layerlens.analyses.probing.retrieval import unit_rows
from layerlens.analyses.probing.states import Kept
from layerlens.errors import InputError
from layerlens.metrics.base import Arrays
from layerlens.metrics.batch import Batch, split
from layerlens.metrics.runner import run_metrics

if TYPE_CHECKING:
    from layerlens.analyses.contract.job import Job
    from layerlens.metrics.collection import MetricSet
    from layerlens.model.lensmodel import LensModel
    from layerlens.model.text import Tokens

OF, METRIC = "of", "metric"
TASK, SHUFFLED, MAJORITY, NOTHING = "task", "shuffled", "majority", "no correlation"
IN_MEMORY = 1 << 40
"""Texts of one call are few, and one state of each at each point is held."""


class Scoring:
    """The work of one call.

    Parameters
    ----------
    job, model, tokens
        As the analysis is given them.
    pool, strength, folds, seed
        See `layerlens.sentence_scores`.
    """

    def __init__(
        self,
        job: Job,
        model: LensModel,
        tokens: Tokens,
        pool: str,
        strength: float,
        folds: int,
        seed: int,
    ) -> None:
        self.job, self.model, self.tokens, self.pool = job, model, tokens, pool
        self.strength, self.n_folds, self.seed = strength, folds, seed
        self.points = points_of(model, "resid_post", None)
        self.score = np.full(len(self.points), np.nan)
        self.passes = 0

    def by_labels(
        self, metrics: Sequence[str], labels: Sequence[Any] | None, groups: Sequence[Any] | None
    ) -> None:
        """Score each layer by a probe of labels."""
        given, unit = marks_of(self.job, labels, groups)
        found = self._record(self.tokens)
        task, kept = task_of(given, unit, found, -1)
        folds, blind = Folds.of(task, self.n_folds, self.seed), shuffled(task, self.seed)
        self._declare(metrics, MAJORITY)
        if task.numbers:
            self.job.describe("score", long_name="share of the labels' variance explained")
        self._emit(MAJORITY, slice(None), [np.full(len(self.points), task.majority)] * 3)
        learner = Learner("linear", self.seed)
        plan = Plan({TASK: task, SHUFFLED: blind}, folds, set(), set(), self.strength, learner)
        for place, states in enumerate(Kept(found.states, kept)):
            self.job.tick()
            for row, learned in plan.learn(states).items():
                said = judged(states, plan.tasks[row], folds, learned.folds).numbers
                ends = [said[f"accuracy{end}"] for end in ("", "_low", "_high")]
                self._emit(row, place, [np.array(value) for value in ends])
            self.job.progress(place + 1, len(self.points), "scores")
        self._check_alone(found)

    def by_pairs(self, metrics: Sequence[str], others: Tokens, scores: Sequence[float]) -> None:
        """Score each layer by how well the cosines of pairs go with what people say.

        Raises
        ------
        InputError
            Texts, partners and scores are not as many, or all scores are the same.
        """
        own, theirs = (rows_of(self.model, side) for side in (self.tokens, others))
        count = len(matched(own, theirs, "texts", "others"))
        gold = np.asarray(scores, dtype=np.float64)
        if gold.shape != (count,) or not np.isfinite(gold).all() or np.ptp(gold) == 0:
            raise InputError(
                f"scores have to be {count} finite numbers that are not all the same, one for each "
                "pair."
            )
        found, partner = self._record(self.tokens), self._record(others)
        blind = np.random.default_rng(self.seed).permutation(gold)
        self._declare(metrics, NOTHING)
        words = "Spearman correlation of cosines with the scores of pairs"
        self.job.describe("score", long_name=words)
        self._emit(NOTHING, slice(None), [np.zeros(len(self.points))] * 3)
        for place, (one, other) in enumerate(zip(found.states, partner.states, strict=True)):
            self.job.tick()
            a, b = (unit_rows(states, centre=False) for states in (one, other))
            cosines = (a * b).sum(1)
            for row, wanted in ((TASK, gold), (SHUFFLED, blind)):
                self._emit(row, place, [np.array(end) for end in between(cosines, wanted)])
            self.job.progress(place + 1, len(self.points), "scores")
        self._check_alone(found)

    def measure(self, made: MetricSet) -> None:
        """Measure the layers in one pass, and correlate."""
        names = [metric.name for metric in made.metrics]

        def show(*, whole: bool) -> Arrays:
            # Metrics of a sample are dear: they are NaN until intervals are asked for.
            values = made.values(intervals=whole)
            self.job.emit({}, {name: values[name] for name in names})
            return values

        def stream(_: Batch) -> None:
            show(whole=False)

        batches = split(self.tokens, None)
        passes = run_metrics(self.model, batches, made, tick=self.job.tick, on_batch=stream)
        values = show(whole=True)
        for place, name in enumerate(names):
            found = against_chance(np.asarray(values[name], np.float64), self.score, self.seed)
            fields = ("correlation", "chance_low", "chance_high", "p", "p_shifted")
            arrays = {key: np.array(value) for key, value in zip(fields, found, strict=True)}
            self.job.emit({METRIC: place}, arrays)
        for metric in made.metrics:
            for name, error, limit, what in metric.checks():
                self.job.check(f"{metric.name}: {name}", error, limit, what)
        missed = abs(made.tokens - sum(self.tokens.lengths))
        self.job.check("tokens", missed, 0, "tokens fed but not measured, padding aside")
        self.job.note(passes=self.passes + passes)

    def _record(self, tokens: Tokens) -> Examples:
        where = spans_of(self.model, rows_of(self.model, tokens), self.pool)
        self.passes += 1
        return recorded(self.model, tokens, self.points, where, IN_MEMORY, self.job.tick)

    def _declare(self, metrics: Sequence[str], last: str) -> None:
        rows = [TASK, SHUFFLED, last]
        self.rows = rows
        own = ["score", "score_low", "score_high",
               "correlation", "chance_low", "chance_high", "p", "p_shifted", *metrics]  # fmt: skip
        self.job.declare(
            {OF: len(rows), METRIC: len(metrics), "point": len(self.points)},
            {
                OF: ((OF,), np.array(rows)),
                METRIC: ((METRIC,), np.array(metrics)),
                "point": (("point",), np.array([point.label for point in self.points])),
                "layer": (("point",), np.array([p.layer for p in self.points], dtype=np.int32)),
            },
            own,
        )

    def _emit(self, row: str, place: int | slice, ends: Sequence[np.ndarray]) -> None:
        """The score of a row, and both ends of its interval."""
        names = ("score", "score_low", "score_high")
        arrays = dict(zip(names, ends, strict=True))
        self.job.emit({OF: self.rows.index(row), "point": place}, arrays)
        if row == TASK:
            self.score[place] = ends[0]

    def _check_alone(self, found: Examples) -> None:
        rows = rows_of(self.model, self.tokens)
        where = spans_of(self.model, rows, self.pool)
        check_alone(self.job, self.model, rows, self.points, where, found.states)
