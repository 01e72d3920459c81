"""The work of one call of ``ll.fit_lens``: texts are read, then each point is fitted."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING

import numpy as np

from layerlens.analyses.lenses.fitting.affine import PENALTY, Moments
from layerlens.analyses.lenses.fitting.begun import begun_points
from layerlens.analyses.lenses.fitting.documents import (
    Seen,
    count_kept,
    seen,
    text_of,
)
from layerlens.analyses.lenses.fitting.frame import check_judged, declare, sides
from layerlens.analyses.lenses.fitting.held import Held
from layerlens.analyses.lenses.fitting.judge import Judge
from layerlens.analyses.lenses.fitting.kl_steps import STEP_TOKENS, Lesson, order_of
from layerlens.analyses.lenses.fitting.one_point import TRAIN_TOKENS, Material, OnePoint
from layerlens.corpus.rows import Row
from layerlens.run.head_rows import Head

if TYPE_CHECKING:
    from layerlens.analyses.contract.job import Job
    from layerlens.analyses.lenses.fitting.asked import Asked
    from layerlens.analyses.lenses.points import Point
    from layerlens.corpus.texts import Texts
    from layerlens.model.text import Tokens

EVERY = 5
"""The penalty is chosen on every fifth training text."""
RISE = 0.02
"""Nats by which steps, which see new tokens each time, may raise the divergence on the first."""


class Fit:
    """The work of one call.

    Parameters
    ----------
    job, texts
        As the analysis is given them.
    asked
        Its options.
    """

    def __init__(self, job: Job, texts: Tokens | Texts, asked: Asked) -> None:
        self.job, self.asked, self.model, self.texts = job, asked, asked.model, texts
        self.train, self.test = sides(job, texts, asked)
        self.n_train, self.n_test = (
            count_kept(side, asked.skipped) for side in (self.train, self.test)
        )
        self.steps = asked.steps if asked.kind == "tuned" else 0
        self.plan = asked.plan(self.n_train, min(self.n_test, asked.test_tokens))
        self.head = Head.of(self.model, self.plan.head)
        index = {point.label: place for place, point in enumerate(asked.chosen)}
        self.one = OnePoint(job, asked, index)
        self.done, self.total = 0, 0

    def run(self) -> None:
        """Read, fit, judge, check."""
        declare(self.job, self.asked)
        begun = begun_points(self.job, self.texts, self.asked)
        left = [point for point in self.asked.chosen if point.label not in begun]
        size = self.plan.group
        groups = [left[start : start + size] for start in range(0, len(left), size)]
        read = len(groups) * (self.n_train + self.n_test)
        self.total = read + len(left) * (1 + self.steps) * STEP_TOKENS
        for group in groups:
            self._group(group)
        self._end(len(groups))

    def _group(self, points: Sequence[Point]) -> None:
        """Read the texts once for some points, then fit one after the other."""
        asked = self.asked
        moments, choosing, taught = self._taught(points)
        judged = Held(self.n_test, asked.test_tokens, asked.seed, len(points))
        for found in self._read(self.test, points):
            judged.add(found)
        final, target, text = (judged.part(name) for name in ("final", "target", "text"))
        self.one.judge = Judge(self.model, self.head, final, target, self.job.tick)
        for place, point in enumerate(points):
            lesson = self._lesson(taught, place) if taught else None
            others = choosing[place] if choosing else None
            material = Material(moments[place], others, lesson, judged.take(place), text)
            self.one.fit(point, material)
            self._progress(STEP_TOKENS, point.label)

    def _taught(
        self, points: Sequence[Point]
    ) -> tuple[list[Moments], list[Moments] | None, Held | None]:
        """Read the training side: sums at each point, and the states that steps learn from."""
        fitting, choosing = self._sides()
        moments = self._moments(points)
        others = self._moments(points) if choosing else None
        held = None
        if self.steps:
            held = Held(self.n_train, self.steps * STEP_TOKENS, self.asked.seed, len(points))
        for rows, sums in ((fitting, moments), (choosing, others or [])):
            for found in self._read(rows, points):
                for one, states in zip(sums, found.states, strict=True):
                    one.add(states, found.final)
                if held is not None:
                    held.add(found)
        if held is not None:
            final, target = (held.part(name)[:TRAIN_TOKENS] for name in ("final", "target"))
            self.one.teacher = Judge(self.model, self.head, final, target, self.job.tick)
        return moments, others, held

    def _sides(self) -> tuple[list[Row], list[Row]]:
        """Rows to fit on, and those to choose the penalty on; none where it is not chosen."""
        if self.asked.kind == "bias" or self.asked.ridge is not None:
            return self.train, []
        texts = set(list(dict.fromkeys(text_of(row) for row in self.train))[::EVERY])
        fitting = [row for row in self.train if text_of(row) not in texts]
        choosing = [row for row in self.train if text_of(row) in texts]
        skipped = self.asked.skipped
        if not count_kept(fitting, skipped) or not count_kept(choosing, skipped):
            self.job.remark(
                "There is no second training text to choose the penalty of the ridge map on, so "
                f"it is {PENALTY:g}."
            )
            return self.train, []
        return fitting, choosing

    def _moments(self, points: Sequence[Point]) -> list[Moments]:
        width, products = self.model.d_model, self.asked.kind != "bias"
        return [Moments(width, products=products, device=self.head.device) for _ in points]

    def _read(self, rows: Sequence[Row], points: Sequence[Point]) -> Iterator[Seen]:
        skipped = self.asked.skipped
        for found in seen(self.model, rows, points, skipped, self.job.tick):
            yield found
            self._progress(len(found.final), "reading")

    def _lesson(self, held: Held, place: int) -> Lesson:
        states, final = held.take(place), held.part("final")
        order = order_of(len(states), self.steps, self.asked.seed)

        def stepped() -> None:
            self._progress(STEP_TOKENS, "steps")

        return Lesson(self.model, states, final, order, self.plan.chunk, self.job.tick, stepped)

    def _progress(self, tokens: int, what: str) -> None:
        self.done += tokens
        self.job.progress(self.done, self.total, what)

    def _end(self, readings: int) -> None:
        self.job.note(passes=readings + 1, train_tokens=self.n_train, test_tokens=self.n_test)
        if self.one.left_alone:
            self.job.remark(
                "No map was better than none on the test texts, so states are left as they are at "
                f"{', '.join(self.one.left_alone)}."
            )
        if np.isfinite(self.one.rise):
            self.job.check(
                "steps do not raise", self.one.rise, RISE,
                "nats by which steps raised the divergence on training tokens",
            )  # fmt: skip
        check_judged(self.job, self.model, self.test[0], self.one.lowest)
