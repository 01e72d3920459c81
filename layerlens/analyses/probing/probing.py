"""The work of one call of ``ll.probe``: a pass, probes at one point after the other, controls."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import numpy as np
import torch

from layerlens.analyses.lenses.fitting.documents import read_rows
from layerlens.analyses.probing.alone import check_alone
from layerlens.analyses.probing.asked import CV, Asked, Task, task_of
from layerlens.analyses.probing.choosing import choose, differences, ended
from layerlens.analyses.probing.controls import by_type, shuffled
from layerlens.analyses.probing.examples import Examples, Where, recorded, spans_each
from layerlens.analyses.probing.few_shot import VARIABLES as FEW_SHOT
from layerlens.analyses.probing.few_shot import FewShot
from layerlens.analyses.probing.folds import Folds, elsewhere, judged, macro_f1
from layerlens.analyses.probing.learner import Learner, Lesson
from layerlens.analyses.probing.online_code import compression
from layerlens.analyses.probing.other_texts import Division, Other, Shots
from layerlens.analyses.probing.plan import Learned, Plan
from layerlens.analyses.probing.readers import plane_of
from layerlens.analyses.probing.solved import check_solved, left_over
from layerlens.analyses.probing.states import Kept
from layerlens.analyses.probing.strengths import Strengths
from layerlens.analyses.probing.transfer import (
    CHOICE,
    CHOICES,
    choose_for,
    guessed,
    transferred,
)
from layerlens.analyses.probing.untrained import untrained as untrained_of

if TYPE_CHECKING:
    from layerlens.analyses.contract.job import Job
    from layerlens.analyses.lenses.points import Point
    from layerlens.corpus.texts import Texts
    from layerlens.model.lensmodel import LensModel
    from layerlens.model.text import Tokens

OF = "of"
PROBE, CONTROL, UNTRAINED, MAJORITY = "probe", "control", "untrained", "majority"


@dataclass
class Curve:
    """What one row came to, point by point."""

    right: list[np.ndarray] = field(default_factory=list)
    elsewhere: list[np.ndarray] = field(default_factory=list)
    readers: list[Any] = field(default_factory=list)
    strengths: list[float] = field(default_factory=list)
    accuracy: list[float] = field(default_factory=list)


class Probing:
    """The work of one call.

    Parameters
    ----------
    job, model
        As the analysis is given them.
    points, where
        Which states.
    asked
        All else.
    names
        Variables that are emitted, unless labels are numbers.
    """

    def __init__(
        self,
        job: Job,
        model: LensModel,
        points: Sequence[Point],
        where: Where,
        asked: Asked,
        names: Sequence[str],
    ) -> None:
        self.job, self.model, self.points, self.where = job, model, list(points), where
        self.asked, self.names = asked, names
        self.rows = [PROBE, CONTROL, *([UNTRAINED] if asked.untrained else []), MAJORITY]
        self.learner = Learner(asked.kind, asked.seed)
        self.curves = {row: Curve() for row in self.rows}
        self._done, self._total = 0, 1

    def run(
        self,
        texts: Tokens | Texts,
        labels: Sequence[Any],
        groups: Sequence[Any] | None,
        other: Other | None,
    ) -> None:
        """Record, fit, judge, check; then the same with an untrained model, and on other texts."""
        asked, self.other = self.asked, other
        fed = sum(len(row.ids) for row in read_rows(self.model, texts))
        self._total = 2 * fed * (2 if asked.untrained else 1)
        found = self._record(self.model, texts, fed)
        self.task, kept = task_of(labels, groups, found, self.where)
        self.folds = Folds.of(self.task, asked.folds, asked.seed)
        tasks = {PROBE: self.task, CONTROL: self._blind(found, kept)}
        self._declare()
        self._majority()
        left, plan = [], self._plan(tasks)
        for place, own in enumerate(Kept(found.states, kept)):
            learned = self._point(place, own, plan, fed)[PROBE]
            left.append(left_over(own, self.task, learned.whole, learned.whole_strength))
            self._hand_over(self.points[place], learned.whole)
        probe = self.curves[PROBE]
        choose(self.job, self.points, self.task, self.folds, probe.right, probe.elsewhere)
        self._compare(*tasks)
        rows = read_rows(self.model, texts)
        check_alone(self.job, self.model, rows, self.points, self.where, found.states)
        check_solved(self.job, left, self.task)
        if other is not None:
            told, part = self._transfer(self.model, other, *tasks)
            choose_for(self.job, self.points, part, told, np.array(probe.accuracy))
            self._guess(guessed(self.task, part))
        del found
        if asked.untrained:
            self._untrained(texts, kept, fed)
        self.job.note(passes=2 if asked.untrained else 1, examples=len(self.task.labels),
                      probe=asked.kind, control=asked.control,
                      classes=[str(one) for one in self.task.classes])  # fmt: skip

    def _untrained(self, texts: Tokens | Texts, kept: np.ndarray, fed: int) -> None:
        """The same from a model of this configuration that was never trained."""
        model = untrained_of(self.model, self.asked.seed)
        plan = self._plan({UNTRAINED: self.task})
        for place, states in enumerate(Kept(self._record(model, texts, fed).states, kept)):
            self._point(place, states, plan, fed)
        self._compare(UNTRAINED)
        if self.other is not None:
            self._transfer(model, self.other, UNTRAINED)

    def _record(self, model: LensModel, texts: Tokens | Texts, fed: int) -> Examples:
        start = self._done

        def progress(done: int, total: int) -> None:
            self._done = start + done
            self.job.progress(self._done, self._total, "recording")

        return recorded(
            model, texts, self.points, self.where, self.asked.limit, self.job.tick, progress,
            self.asked.workers,
        )  # fmt: skip

    def _step(self, fed: int) -> None:
        self._done += fed // len(self.points)
        self.job.tick()
        self.job.progress(min(self._done, self._total), self._total, "probes")

    def _blind(self, found: Examples, kept: np.ndarray) -> Task:
        """Labels that say nothing."""
        asked = self.asked
        if asked.control == "shuffle":
            return shuffled(self.task, asked.seed)
        own = found.type if asked.types is None else np.asarray(asked.types)
        return by_type(self.task, own[kept], asked.seed)

    def _declare(self) -> None:
        left_out: set[str] = set()
        if not self.asked.send:
            left_out.add("compression")
        if self.asked.strength != CV:
            left_out |= {name for name in self.names if name.startswith("log_strength")}
        if self.task.numbers:
            left_out |= {"auc", "f1", "compression"}
        if self.other is None:
            left_out |= {name for name in self.names if name.startswith("transfer")}
        if self.other is None or self.other.shots is None:
            left_out |= set(FEW_SHOT)
        points, rows = self.points, self.rows
        sizes = {OF: len(rows), "point": len(points)}
        coords = {
            OF: ((OF,), np.array(rows)),
            "point": (("point",), np.array([point.label for point in points])),
            "layer": (("point",), np.array([p.layer for p in points], dtype=np.int32)),
        }
        if self.other is not None:
            sizes[CHOICE], coords[CHOICE] = len(CHOICES), ((CHOICE,), np.array(CHOICES))
        self.job.declare(sizes, coords, [name for name in self.names if name not in left_out])
        if self.task.numbers:
            words = "share of the variance of the labels that is explained"
            self.job.describe("accuracy", long_name=words)

    def _row(self, row: str) -> int:
        return self.rows.index(row)

    def _majority(self) -> None:
        """The row of whoever always says the commonest class, and differs from itself by 0."""
        points = len(self.points)
        found = dict.fromkeys(_ends("accuracy"), np.full(points, self.task.majority))
        found |= dict.fromkeys(_ends("difference_to_last"), np.zeros(points))
        if not self.task.numbers:
            found["auc"] = np.full(points, 0.5)
            commonest = np.bincount(self.task.labels).argmax()
            told = np.full(len(self.task.labels), commonest)
            found["f1"] = np.full(points, macro_f1(told, self.task.labels))
            if self.asked.send:
                found["compression"] = np.ones(points)
        if self.asked.strength == CV:
            found |= dict.fromkeys(_ends("log_strength"), np.full(points, np.nan))
        self.job.emit({OF: self._row(MAJORITY)}, found)

    def _guess(self, share: float) -> None:
        """The same on other texts."""
        assert self.other is not None
        names = ["transfer_accuracy", *(["few_shot_accuracy"] if self.other.shots else [])]
        told = np.full(len(self.points), share)
        found = {end: told for name in names for end in _ends(name)}
        self.job.emit({OF: self._row(MAJORITY)}, found)

    def _plan(self, tasks: Mapping[str, Task]) -> Plan:
        """Readers of all examples are needed of the probe, and of all rows for other texts."""
        whole = {PROBE} if self.other is None else set(tasks)
        strength = self.asked.strength
        return Plan(tasks, self.folds, whole, {PROBE}, strength, self.learner)

    def _point(self, place: int, states: np.ndarray, plan: Plan, fed: int) -> dict[str, Learned]:
        """Fit all that is asked at a point at once, and judge it."""
        self.job.tick()
        found = plan.learn(states)
        for row, learned in found.items():
            task, curve = plan.tasks[row], self.curves[row]
            self._judge(row, place, states, task, learned)
            curve.readers.append(learned.whole)
            curve.strengths.append(learned.whole_strength)
            if learned.apart:
                curve.elsewhere.append(elsewhere(states, task, self.folds, learned.apart))
        if PROBE in found:
            gap = self.curves[PROBE].accuracy[-1] - self.curves[CONTROL].accuracy[-1]
            self.job.emit({"point": place}, {"selectivity": np.array(gap)})
        self._step(fed)
        return found

    def _judge(
        self, row: str, place: int, states: np.ndarray, task: Task, learned: Learned
    ) -> None:
        found = judged(states, task, self.folds, learned.folds)
        arrays = {name: np.array(value) for name, value in found.numbers.items()}
        if self.asked.send and not task.numbers:
            arrays["compression"] = np.array(self._sent(states, task))
        if self.asked.strength == CV:
            powers = np.log10(learned.strengths)
            spread = (float(np.median(powers)), float(powers.min()), float(powers.max()))
            arrays |= ended("log_strength", spread)
        self.job.emit({OF: self._row(row), "point": place}, arrays)
        self.curves[row].right.append(found.right)
        self.curves[row].accuracy.append(found.numbers["accuracy"])

    def _sent(self, states: np.ndarray, task: Task) -> float:
        """Compression of the labels by the online code."""

        def learn(states: np.ndarray, lessons: Sequence[Lesson]) -> list[Any]:
            strengths = Strengths(self.asked.strength, lessons, self.asked.seed)
            return self.learner.learn(states, lessons, strengths.of(states, self.learner))

        return compression(states, task, self.asked.seed, learn)

    def _hand_over(self, point: Point, reader: Any) -> None:
        """Give what was learned from all examples, which is what others use."""
        plane = plane_of(reader)
        if plane is None:
            return
        weight, bias = plane
        arrays = {f"{point.label}.weight": weight, f"{point.label}.bias": bias}
        if len(weight) == 1 and spans_each(self.where) == 1:
            arrays[f"{point.label}.direction"] = weight[0] / max(np.linalg.norm(weight), 1e-30)
        single = {name: torch.from_numpy(array).float() for name, array in arrays.items()}
        scores = {f"accuracy/{point.label}": self.curves[PROBE].accuracy[-1]}
        self.job.learned(single, {"test": scores})

    def _compare(self, *rows: str) -> None:
        for row in rows:
            differences(self.job, self._row(row), self.task.unit, self.curves[row].right)

    def _transfer(
        self, model: LensModel, other: Other, *rows: str
    ) -> tuple[list[np.ndarray], Division]:
        """Try readers of some rows on other texts; how right the first row is of each example."""
        readers = {self._row(row): self.curves[row].readers for row in rows}
        told, part = transferred(
            self.job, model, self.points, self.task, other, readers, self.asked.limit,
            self.asked.seed, self._few_shot(other.shots, rows),
        )  # fmt: skip
        return told[self._row(rows[0])], part

    def _few_shot(
        self, shots: Shots | None, rows: Sequence[str]
    ) -> Callable[[int, np.ndarray, Division], None]:
        """What lets a few of the other texts teach, at each point, and emits how well they do."""
        few: list[FewShot] = []

        def see(place: int, states: np.ndarray, part: Division) -> None:
            if shots is None:
                return
            if not few:
                few.append(FewShot.of(part, self.task.classes, shots, self.asked.seed))
            for row in rows:
                found = few[0].accuracy(
                    states, self.task, part, self.learner, self.curves[row].strengths[place],
                    dealt=row == CONTROL,
                )  # fmt: skip
                where = {OF: self._row(row), "point": place}
                self.job.emit(where, ended("few_shot_accuracy", found))

        return see


def _ends(name: str) -> list[str]:
    return [name, f"{name}_low", f"{name}_high"]
