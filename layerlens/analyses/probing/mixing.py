"""The work of one call of ``ll.layer_mix``: a pass, then mixes of all layers fold by fold."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from layerlens.analyses.lenses.fitting.documents import read_rows
from layerlens.analyses.probing.alone import check_alone
from layerlens.analyses.probing.asked import Task, task_of
from layerlens.analyses.probing.controls import shuffled
from layerlens.analyses.probing.examples import Where, recorded
from layerlens.analyses.probing.folds import Folds, elsewhere, judged
from layerlens.analyses.probing.learner import Learner
from layerlens.analyses.probing.numbers import chosen_elsewhere, mean_between, share_between
from layerlens.analyses.probing.over_folds import over_folds
from layerlens.analyses.probing.plan import Plan
from layerlens.analyses.probing.scalar_mix import SLOPE, Mix, Scale, mixed
from layerlens.analyses.probing.states import Kept, Points
from layerlens.errors import InputError
from layerlens.metrics.bootstrap import ends, resamples

if TYPE_CHECKING:
    from layerlens.analyses.contract.job import Job
    from layerlens.analyses.lenses.points import Point
    from layerlens.corpus.spread import Workers
    from layerlens.corpus.texts import Texts
    from layerlens.model.lensmodel import LensModel
    from layerlens.model.text import Tokens

LABELS, OF = "labels", "of"
GIVEN, SHUFFLED, EQUAL = "given", "shuffled", "equal"
WAYS = (GIVEN, SHUFFLED, EQUAL)
ALONE, MAJORITY = "layer alone", "majority"
MIX, EVEN, BLIND = "mix up to here", "equal weights up to here", "the same, shuffled labels"
ROWS = (MIX, EVEN, BLIND, ALONE, MAJORITY)
ROUGH = 1e-3
"""Slope at which the mixes of the first layers only stop, of which there are many."""
STUCK = 10
"""How many times steeper than it was to be a loss may be where its solver gave up."""


class Mixing:
    """The work of one call.

    Parameters
    ----------
    job, model
        As the analysis is given them.
    points, where, strength, folds, seed, memory_limit, workers
        See `layerlens.layer_mix`.
    """

    def __init__(
        self,
        job: Job,
        model: LensModel,
        points: Sequence[Point],
        where: Where,
        strength: float,
        folds: int,
        seed: int,
        memory_limit: int,
        workers: Workers,
    ) -> None:
        self.job, self.model, self.points, self.where = job, model, list(points), where
        self.strength, self.n_folds, self.seed, self.limit = strength, folds, seed, memory_limit
        self.workers = workers
        self.layers = np.array([point.layer for point in points], dtype=np.int32)
        self.steeper = 0.0

    def run(
        self, texts: Tokens | Texts, labels: Sequence[Any], groups: Sequence[Any] | None
    ) -> None:
        """Record, judge layers alone, then mix them fold by fold."""
        job, points = self.job, len(self.points)
        found = recorded(
            self.model, texts, self.points, self.where, self.limit, job.tick,
            lambda done, total: job.progress(done, 2 * total, "recording"), self.workers,
        )  # fmt: skip
        self.task, kept = task_of(labels, groups, found, self.where)
        if self.task.numbers:
            raise InputError(
                "layer_mix tells classes apart, and these labels are numbers with a fraction: give "
                "classes, or ask ll.probe, which predicts numbers too."
            )
        self.folds = Folds.of(self.task, self.n_folds, self.seed)
        self.blind = shuffled(self.task, self.seed)
        self._declare()
        states = Kept(found.states, kept)
        self._alone(states)
        self.weights = {way: np.full((self.n_folds, points), 1 / points) for way in WAYS}
        self.gammas = {way: np.zeros(self.n_folds) for way in WAYS}
        self.right = {row: np.zeros((points, len(self.task.labels))) for row in (MIX, EVEN, BLIND)}
        self.right_blind = np.zeros(len(self.task.labels))
        for fold in range(self.n_folds):
            self._fold(states, fold)
        self._finish()
        check_alone(job, self.model, read_rows(self.model, texts), self.points, self.where,
                    found.states)  # fmt: skip
        what = "slope of a loss where its solver stopped, over that at which it was to stop"
        job.check("solved", self.steeper, STUCK, what)
        job.note(passes=1, examples=len(self.task.labels),
                 classes=[str(one) for one in self.task.classes])  # fmt: skip

    def _declare(self) -> None:
        points = len(self.points)
        self.job.declare(
            {OF: len(ROWS), LABELS: len(WAYS), "point": points},
            {
                OF: ((OF,), np.array(ROWS)),
                LABELS: ((LABELS,), np.array(WAYS)),
                "point": (("point",), np.array([point.label for point in self.points])),
                "layer": (("point",), self.layers),
            },
        )
        share = np.full(points, self.task.majority)
        arrays = dict.fromkeys(("accuracy", "accuracy_low", "accuracy_high"), share)
        self.job.emit({OF: ROWS.index(MAJORITY)}, arrays)

    def _alone(self, states: Points) -> None:
        """A probe of each layer by itself, and the one that is chosen where it is not judged."""
        right, apart = [], []
        plan = Plan({ALONE: self.task}, self.folds, set(), {ALONE}, self.strength,
                    Learner("linear", self.seed))  # fmt: skip
        for place, layer in enumerate(states):
            self.job.tick()
            learned = plan.learn(layer)[ALONE]
            right.append(judged(layer, self.task, self.folds, learned.folds).right)
            apart.append(elsewhere(layer, self.task, self.folds, learned.apart))
            self._emit_accuracy(ALONE, place, right[-1], np.ones(len(right[-1]), bool))
        answered, chosen = chosen_elsewhere(np.stack(right), self.folds.number, np.stack(apart))
        self.selected = answered
        self._emit_between("selected_accuracy", share_between(answered, self.task.unit))
        often = Counter(int(self.layers[place]) for place in chosen).most_common(1)[0][0]
        self.job.emit({}, {"selected_layer": np.array(often, dtype=np.int32)})

    def _fold(self, states: Points, fold: int) -> None:
        """Mixes of all layers and of the first ones, of one fold; then what is known so far."""
        here = self.folds.number == fold
        scale = Scale(states, ~here)
        taught, judge = (scale.of(states, chosen, self.limit) for chosen in (~here, here))
        whole = self._mix(taught, self.task, here)
        blind = self._mix(taught, self.blind, here)
        even = self._mix(taught, self.task, here, learn=False)
        for way, mix in zip(WAYS, (whole, blind, even), strict=True):
            self.weights[way][fold], self.gammas[way][fold] = mix.share, mix.gamma
            self._emit_weights(way, fold + 1)
        self.right_blind[here] = blind.predict(judge) == self.blind.labels[here]
        seen = self.folds.number <= fold
        for place in range(len(states)):
            first, last = slice(place + 1), place == len(states) - 1
            mixes = {
                MIX: whole if last else self._mix(taught[first], self.task, here, slope=ROUGH),
                EVEN: self._mix(taught[first], self.task, here, learn=False),
                BLIND: self._mix(taught[first], self.blind, here, learn=False),
            }
            for row, mix in mixes.items():
                labels = (self.blind if row == BLIND else self.task).labels
                self.right[row][place, here] = mix.predict(judge[first]) == labels[here]
                self._emit_accuracy(row, place, self.right[row][place], seen)
            done, total = fold * len(states) + place + 1, self.n_folds * len(states)
            self.job.progress(total + done, 2 * total, f"fold {fold + 1} of {self.n_folds}")

    def _mix(
        self, layers: np.ndarray, task: Task, here: np.ndarray, *,
        learn: bool = True, slope: float = SLOPE,
    ) -> Mix:  # fmt: skip
        found = mixed(layers, task.labels[~here], len(task.classes), self.strength,
                      learn=learn, slope=slope, tick=self.job.tick)  # fmt: skip
        self.steeper = max(self.steeper, found.slope / slope)
        return found

    def _emit_weights(self, way: str, folds: int) -> None:
        """Weights of the folds so far; between which bounds they lie once there are all."""
        where, own = {LABELS: WAYS.index(way)}, self.weights[way][:folds]
        evenness = -(own * np.log(np.maximum(own, 1e-300))).sum(1) / np.log(own.shape[1])
        mean = own.mean(0)
        self.job.emit(where, {
            "weight": mean, "centre_of_gravity": mean @ self.layers,
            "evenness": evenness.mean(), "gamma": self.gammas[way][:folds].mean(),
        })  # fmt: skip
        if folds < self.n_folds:
            return
        _, low, high = over_folds(own, self.folds.number)
        self.job.emit(where, {"weight_low": low.clip(0), "weight_high": high.clip(max=1)})
        _, low, high = over_folds(own @ self.layers, self.folds.number)
        first, last = self.layers.min(), self.layers.max()
        self.job.emit(where, {"centre_of_gravity_low": low.clip(first, last),
                              "centre_of_gravity_high": high.clip(first, last)})  # fmt: skip

    def _emit_accuracy(self, row: str, place: int, right: np.ndarray, seen: np.ndarray) -> None:
        mean, low, high = map(np.array, share_between(right[seen], self.task.unit[seen]))
        arrays = {"accuracy": mean, "accuracy_low": low, "accuracy_high": high}
        self.job.emit({OF: ROWS.index(row), "point": place}, arrays)

    def _emit_between(self, name: str, found: tuple[float, float, float], **where: int) -> None:
        mean, low, high = map(np.array, found)
        self.job.emit(where, {name: mean, f"{name}_low": low, f"{name}_high": high})

    def _finish(self) -> None:
        """What each layer adds, and at which depth most is added."""
        nothing = {name: np.array(np.nan) for name in ("gain", "gain_low", "gain_high")}
        self.job.emit({"point": 0}, nothing)
        for place, gain in enumerate(np.diff(self.right[MIX], axis=0), 1):
            self._emit_between("gain", mean_between(gain, self.task.unit), point=place)
        blind = share_between(self.right_blind, self.task.unit)
        self._emit_between("shuffled_accuracy", blind)
        found = expected_layer(self.right[MIX], self.layers, self.task.unit)
        for end, value in zip(("", "_low", "_high"), found, strict=True):
            self.job.emit({}, {f"expected_layer{end}": np.array(value)})
        if found[1] < self.layers[0] or found[2] > self.layers[-1]:
            self.job.remark(
                "Some mix of more layers was right less often than one of fewer, so that the mean "
                "layer by gain may lie outside of the layers: read the curve of what each adds."
            )
        more = self.right[MIX][-1] - self.selected
        self._emit_between("mix_over_layer", mean_between(more, self.task.unit))


def expected_layer(
    right: np.ndarray, layers: np.ndarray, unit: np.ndarray
) -> tuple[float, float, float]:
    """The mean layer by what each adds, and its 95 % interval over units.

    Parameters
    ----------
    right
        ``[layer, n]``: 1 where the mix up to a layer is right.
    layers
        ``[layer]``: their numbers; the first is what gains are counted from.
    unit
        ``[n]``: what is drawn together.

    Returns
    -------
    mean, low, high
        NaN where nothing is gained over the first; draws in which nothing is do not count for the
        interval.

    Examples
    --------
    >>> right = np.array([[0, 0, 1, 0], [0, 1, 1, 0], [1, 1, 1, 1]])
    >>> round(expected_layer(right, np.array([-1, 0, 1]), np.arange(4))[0], 3)
    0.667
    """
    _, inverse = np.unique(unit, return_inverse=True)
    count = int(inverse.max()) + 1
    sums = np.stack([np.bincount(inverse, row, count) for row in right])
    drawn = resamples(count)

    def mean(by_layer: np.ndarray) -> np.ndarray:
        gain = np.diff(by_layer, axis=0)
        whole = gain.sum(0)
        shared: np.ndarray = (layers[1:] @ gain) / np.where(whole > 0, whole, np.nan)
        return shared

    found = mean(sums @ drawn.T)
    low, high = ends(found[:, None], np.array([count > 1 and bool(np.isfinite(found).any())]))
    return float(mean(sums.sum(1)[:, None])[0]), float(low[0]), float(high[0])
