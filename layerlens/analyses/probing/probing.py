"""The work of one call of ``ll.probe``: a pass, probes at one point after the other, controls."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
import torch

from layerlens.analyses.lenses.fitting.documents import rows_of
from layerlens.analyses.probing.alone import check_alone
from layerlens.analyses.probing.asked import Task, task_of
from layerlens.analyses.probing.controls import by_type, shuffled
from layerlens.analyses.probing.examples import EACH, Examples, Where, recorded
from layerlens.analyses.probing.folds import Folds, Judged, elsewhere, fit, judged, macro_f1, sent
from layerlens.analyses.probing.numbers import chosen_elsewhere, concept_depth, share_between
from layerlens.analyses.probing.readers import plane_of, reader_for, scores_of
from layerlens.analyses.probing.untrained import untrained as untrained_of
from layerlens.errors import InputError

if TYPE_CHECKING:
    from layerlens.analyses.contract.job import Job
    from layerlens.analyses.lenses.points import Point
    from layerlens.corpus.texts import Texts
    from layerlens.model.lensmodel import LensModel
    from layerlens.model.text import Tokens

OF = "of"
PROBE, CONTROL, UNTRAINED, MAJORITY = "probe", "control", "untrained", "majority"
FOLDED = 1e-4
"""How far a probe may be from its plane in the states' own units, as a share."""


class Probing:
    """The work of one call.

    Parameters
    ----------
    job, model
        As the analysis is given them.
    points, where, kind, strength, folds, seed, memory_limit
        See `layerlens.probe`.
    names
        Variables that are emitted, unless labels are numbers or are not sent.
    send
        Whether labels are sent by the online code too.
    """

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
        names: Sequence[str],
        *,
        send: bool,
    ) -> None:
        self.job, self.model, self.points, self.where = job, model, list(points), where
        self.kind, self.strength, self.n_folds, self.seed = kind, strength, folds, seed
        self.limit, self.names, self.send = memory_limit, names, send
        self.readers: list[Any] = []
        self.elsewhere: list[np.ndarray] = []
        self._done, self._total = 0, 1

    def run(
        self,
        texts: Tokens | Texts,
        labels: Sequence[Any],
        groups: Sequence[Any] | None,
        *,
        control: str,
        types: Sequence[Any] | None,
        untrained: bool,
    ) -> None:
        """Record, fit, judge, check; then the same with an untrained model."""
        fed = sum(len(row.ids) for row in rows_of(self.model, texts))
        self._total = 2 * fed * (2 if untrained else 1)
        rows = [PROBE, CONTROL, *([UNTRAINED] if untrained else []), MAJORITY]
        found = self._record(self.model, texts, fed)
        task, kept = task_of(labels, groups, found.text, self.where)
        self.task = task
        folds = Folds.of(task, self.n_folds, self.seed)
        self._declare(rows)
        self._majority(rows.index(MAJORITY))
        own_types = (
            found.type[kept] if types is None else [types[i] for i in np.flatnonzero(kept).tolist()]
        )
        blind = (
            shuffled(task, self.seed)
            if control == "shuffle"
            else by_type(task, own_types, self.seed)
        )
        right = self._points(found, kept, folds, blind, fed)
        self._choose(np.stack(right), folds, np.stack(self.elsewhere))
        self._check(texts, found, kept)
        if untrained:
            other = untrained_of(self.model, self.seed)
            read = self._record(other, texts, fed)
            for place in range(len(self.points)):
                self._judge(read.states[place][kept], task, folds, UNTRAINED, place)
                self._step(fed)
        self.job.note(passes=2 if untrained else 1, examples=len(task.labels), probe=self.kind,
                      control=control, classes=[str(one) for one in task.classes])  # fmt: skip

    def _record(self, model: LensModel, texts: Tokens | Texts, fed: int) -> Examples:
        start = self._done

        def progress(done: int, total: int) -> None:
            self._done = start + done
            self.job.progress(self._done, self._total, "recording")

        return recorded(model, texts, self.points, self.where, self.limit, self.job.tick, progress)

    def _step(self, fed: int) -> None:
        self._done += fed // len(self.points)
        self.job.tick()
        self.job.progress(min(self._done, self._total), self._total, "probes")

    def _declare(self, rows: Sequence[str]) -> None:
        left_out: set[str] = set()
        if not self.send:
            left_out.add("compression")
        if self.task.numbers:
            left_out |= {"auc", "f1", "compression"}
        self.rows = list(rows)
        points = self.points
        self.job.declare(
            {OF: len(rows), "point": len(points)},
            {
                OF: ((OF,), np.array(rows)),
                "point": (("point",), np.array([point.label for point in points])),
                "layer": (("point",), np.array([p.layer for p in points], dtype=np.int32)),
            },
            [name for name in self.names if name not in left_out],
        )
        if self.task.numbers:
            words = "share of the variance of the labels that is explained"
            self.job.describe("accuracy", long_name=words)

    def _majority(self, row: int) -> None:
        points = len(self.points)
        share = self.task.majority
        found = dict.fromkeys(("accuracy", "accuracy_low", "accuracy_high"), np.full(points, share))
        if not self.task.numbers:
            found["auc"] = np.full(points, 0.5)
            commonest = np.bincount(self.task.labels).argmax()
            guessed = np.full(len(self.task.labels), commonest)
            found["f1"] = np.full(points, macro_f1(guessed, self.task.labels))
        if self.send and not self.task.numbers:
            found["compression"] = np.ones(points)
        self.job.emit({OF: row}, found)

    def _points(
        self, found: Examples, kept: np.ndarray, folds: Folds, blind: Task, fed: int
    ) -> list[np.ndarray]:
        """Fit and judge at each point, the probe and its control, and hand over what it learned."""
        right, accuracy = [], []
        for place, point in enumerate(self.points):
            states = found.states[place][kept]
            own = self._judge(states, self.task, folds, PROBE, place)
            other = self._judge(states, blind, folds, CONTROL, place)
            gap = own.numbers["accuracy"] - other.numbers["accuracy"]
            self.job.emit({"point": place}, {"selectivity": np.array(gap)})
            right.append(own.right)
            apart = elsewhere(states, self.task, folds, self.kind, self.strength, self.seed)
            self.elsewhere.append(apart)
            accuracy.append(own.numbers["accuracy"])
            self._learn(point, states, own)
            self._step(fed)
        self.accuracy = np.array(accuracy)
        return right

    def _judge(
        self,
        states: np.ndarray,
        task: Task,
        folds: Folds,
        row: str,
        place: int,
    ) -> Judged:
        self.job.tick()
        found = judged(states, task, folds, self.kind, self.strength, self.seed)
        shown = {name: value for name, value in found.numbers.items()
                 if not task.numbers or name.startswith("accuracy")}  # fmt: skip
        if self.send and not task.numbers:
            shown["compression"] = sent(states, task, self.kind, self.strength, self.seed)
        arrays = {name: np.array(value) for name, value in shown.items()}
        self.job.emit({OF: self.rows.index(row), "point": place}, arrays)
        return found

    def _learn(self, point: Point, states: np.ndarray, own: Judged) -> None:
        """Fit once more, to all examples: this is what others use."""
        reader = fit(reader_for(self.kind, self.strength, self.seed, numbers=self.task.numbers),
                     states, self.task.labels)  # fmt: skip
        self.readers.append(reader)
        plane = plane_of(reader)
        if plane is None:
            return
        weight, bias = plane
        arrays = {f"{point.label}.weight": weight, f"{point.label}.bias": bias}
        if len(weight) == 1:
            arrays[f"{point.label}.direction"] = weight[0] / max(np.linalg.norm(weight), 1e-30)
        single = {name: torch.from_numpy(array).float() for name, array in arrays.items()}
        scores = {f"accuracy/{point.label}": own.numbers["accuracy"]}
        self.job.learned(single, {"test": scores})

    def _choose(self, right: np.ndarray, folds: Folds, scores: np.ndarray) -> None:
        """Let the folds choose a layer, and say at which depth accuracy rises."""
        better = -right if self.task.numbers else right
        answered, chosen = chosen_elsewhere(better, folds.number, scores)
        if self.task.numbers:
            answered = 1 + answered / max(float(self.task.labels.var()), 1e-30)
        mean, low, high = share_between(answered, self.task.unit)
        layers = [self.points[place].layer for place in chosen]
        blocks = [i for i, point in enumerate(self.points) if point.layer >= 0]
        depth = concept_depth(self.accuracy[blocks].tolist()) if len(blocks) > 1 else {}
        found: dict[str, Any] = {
            "selected_accuracy": mean, "selected_accuracy_low": low, "selected_accuracy_high": high,
            **depth,
        }  # fmt: skip
        arrays = {name: np.array(value) for name, value in found.items()}
        arrays["selected_layer"] = np.array(Counter(layers).most_common(1)[0][0], dtype=np.int32)
        self.job.emit({}, arrays)

    def _check(self, texts: Tokens | Texts, found: Examples, kept: np.ndarray) -> None:
        """Hold the states to the model itself, and the planes to the probes."""
        rows = rows_of(self.model, texts)
        check_alone(self.job, self.model, rows, self.points, self.where, found.states)
        folded = [self._folded(place, found.states[place][kept][:64])
                  for place in range(len(self.points))]  # fmt: skip
        if known := [value for value in folded if value is not None]:
            self.job.check(
                "planes", max(known), FOLDED,
                "what a probe says of a state against its weights in the states' own units",
            )  # fmt: skip

    def _folded(self, place: int, states: np.ndarray) -> float | None:
        reader = self.readers[place]
        plane = plane_of(reader)
        if plane is None:
            return None
        weight, bias = plane
        given = states @ weight.T + bias
        if self.task.numbers:
            own = np.asarray(reader.predict(states)).reshape(given.shape)
        else:
            scores = scores_of(reader, states, range(len(self.task.classes)))
            own = scores[:, 1:] if given.shape[1] == 1 else scores
        return float(np.abs(given - own).max() / max(np.abs(own).max(), 1e-30))

    def transfer(self, texts: Tokens | Texts, labels: Sequence[Any]) -> None:
        """Try what was learned on other texts.

        Raises
        ------
        InputError
            Their labels are of other classes.
        """
        if self.where == EACH or self.task.numbers:
            raise InputError("other_texts are told apart by classes of whole texts only.")
        known = {label: place for place, label in enumerate(self.task.classes)}
        if foreign := sorted({str(label) for label in labels if label not in known}):
            raise InputError(
                f"other_texts have labels {', '.join(foreign[:5])}, which were not learned: give "
                "texts with the same labels."
            )
        found = recorded(self.model, texts, self.points, self.where, self.limit, self.job.tick)
        given = np.array([known[labels[number]] for number in found.text])
        share = float(np.bincount(given).max() / len(given))
        self.job.emit({}, {"transfer_majority": np.array(share)})
        for place, reader in enumerate(self.readers):
            right = (reader.predict(found.states[place]) == given).astype(np.float64)
            mean, low, high = share_between(right, found.text)
            self.job.emit(
                {"point": place},
                {"transfer_accuracy": np.array(mean), "transfer_accuracy_low": np.array(low),
                 "transfer_accuracy_high": np.array(high)},
            )  # fmt: skip
