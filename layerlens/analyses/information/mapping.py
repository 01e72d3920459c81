"""The work of one call of ``ll.state_map``: a pass, then a plane at one point after the other."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from layerlens.analyses.information.map_items import Items, items_of
from layerlens.analyses.information.nearest_means import (
    Sides,
    between_draws,
    dealt,
    told,
)
from layerlens.analyses.information.planes import (
    Plane,
    Principal,
    discriminants,
    main_plane,
    principal,
    shares,
    turned,
)
from layerlens.analyses.lenses.fitting.documents import rows_of, text_of
from layerlens.analyses.probing.alone import check_alone
from layerlens.analyses.probing.examples import Where, recorded
from layerlens.analyses.probing.numbers import share_between
from layerlens.errors import InputError

if TYPE_CHECKING:
    from layerlens.analyses.contract.job import Job
    from layerlens.analyses.lenses.points import Point
    from layerlens.corpus.spread import Workers
    from layerlens.corpus.texts import Texts
    from layerlens.model.lensmodel import LensModel
    from layerlens.model.text import Tokens

LABELS = ("given", "shuffled")
SPACES = ("map", "all directions")
TOLD = ("nearest_mean_accuracy", "nearest_mean_accuracy_low", "nearest_mean_accuracy_high")
KEPT = 1e-4
"""How far distances along all components may be from those between states, of the largest."""
COMPARED = 64
"""States whose distances are compared."""


class Mapping:
    """The work of one call.

    Parameters
    ----------
    job, model
        As the analysis is given them.
    texts, points, where, method, align, components, shuffles, seed, skipped
        See `layerlens.state_map`.
    labels
        Of the texts; None for none.
    """

    def __init__(
        self,
        job: Job,
        model: LensModel,
        texts: Tokens | Texts,
        points: Sequence[Point],
        where: Where,
        labels: Sequence[Any] | None,
        method: str,
        align: str,
        components: int,
        shuffles: int,
        seed: int,
        skipped: int,
    ) -> None:
        self.job, self.model, self.points, self.where = job, model, list(points), where
        self.lda, self.align, self.components = method == "lda", align, components
        self.shuffles, self.random = shuffles, np.random.default_rng(seed)
        self.seed = seed
        self.texts: list[Tokens | Texts] = [texts]
        self.rows = rows_of(model, texts)
        self.skipped = skipped
        self.items = items_of(model, self.rows, where, labels, skipped)
        self.kept = [self.items.kept]
        self.own = len(self.items.text)
        self.sides: Sides | None = None
        self.fitted = np.arange(self.own)
        self.draws: list[np.ndarray] = []
        self.off: dict[str, float] = {}

    def part(self, test: float) -> None:
        """Set texts apart, and deal labels out anew on either side.

        Raises
        ------
        InputError
            One label alone is left to be learned from.
        """
        split = self.job.split(self.seed, test)
        labelled = self.items.label >= 0
        train, apart = (
            np.flatnonzero(labelled & np.isin(self.items.text, side))
            for side in (split.train, split.test)
        )
        if len(np.unique(self.items.label[train])) < 2 or not len(apart):
            raise InputError(
                "What is not set apart holds texts of one label alone: give more texts, another "
                "seed, or another test."
            )
        self.sides = train, apart
        if self.lda:
            self.fitted = train
        label, unit = self.items.label, self.items.unit
        self.draws = [dealt(label, unit, self.sides, self.random) for _ in range(self.shuffles)]

    def add(self, texts: Tokens | Texts, labels: Sequence[Any] | None) -> None:
        """Texts that are drawn too and fit nothing; without a label they are "other texts"."""
        rows = rows_of(self.model, texts)
        count = 1 + max(text_of(row) for row in rows)
        given = labels or ["other texts"] * count
        more = items_of(self.model, rows, self.where, given, self.skipped)
        self.kept.append(more.kept)
        names = list(dict.fromkeys([*(self.items.names or ["texts"]), *more.names]))
        number = np.array([names.index(name) for name in more.names])
        label = self.items.label if self.items.names else np.zeros(self.own, dtype=np.int64)
        self.items = Items(
            [*self.items.words, *more.words],
            np.concatenate([self.items.text, more.text + self.items.text.max() + 1]),
            names,
            np.concatenate([label, number[more.label]]),
            self.items.unit,
            self.items.kept,
        )
        self.draws = [np.concatenate([one, number[more.label]]) for one in self.draws]
        self.texts.append(texts)

    def declare(self, most: int) -> None:
        """Say what is drawn."""
        items, count = self.items, len(self.items.text)
        self.shown = np.arange(count)
        if count > most:
            self.shown = np.sort(self.random.choice(count, most, replace=False))
            self.job.remark(f"{most} of {count} states are drawn, at random; all are counted.")
        fitted = np.isin(self.shown, self.fitted)
        rows = LABELS[: 2 if self.lda else 1]
        again = "labels shuffled" if self.lda else "values shuffled"
        spaces = [*SPACES, *(f"{space}, labels shuffled" for space in SPACES)]
        sizes = {"labels": len(rows), "point": len(self.points), "item": len(self.shown),
                 "space": len(spaces), "axis": 4, "label": len(items.names)}  # fmt: skip
        self.job.declare(
            sizes,
            {
                "labels": (("labels",), np.array(rows)),
                "point": (("point",), np.array([point.label for point in self.points])),
                "layer": (("point",), np.array([p.layer for p in self.points], dtype=np.int32)),
                "words": (("item",), np.array([items.words[i] for i in self.shown])),
                "text": (("item",), items.text[self.shown].astype(np.int32)),
                "fitted": (("item",), fitted),
                "label": (("label",), np.array(items.names, dtype=str)),
                "space": (("space",), np.array(spaces)),
                "axis": (("axis",), np.array(["x", "y", f"x, {again}", f"y, {again}"])),
            },
            ["x", "y", *(["label_id"] if items.names else []),
             *(TOLD if self.sides else []), "explained"],
        )  # fmt: skip
        self._describe()
        if items.names:
            drawn = [items.label, *self.draws[: len(rows) - 1]]
            numbers = np.stack([one[self.shown] for one in drawn]).astype(np.int32)
            self.job.emit({}, {"label_id": numbers})

    def _describe(self) -> None:
        kind, units = "principal component", "rms distance"
        if self.lda:
            kind, units = "discriminant", "standard deviations"
            if len(np.unique(self.items.label[self.fitted])) == 2:
                self.job.remark(
                    "Two labels have one discriminant; the second axis is the principal component "
                    "of what is left without it."
                )
        for name, which in (("x", "first"), ("y", "second")):
            words = f"{which} {kind}" if self.align == "signs" else f"{which} axis, turned"
            self.job.describe(name, long_name=words, units=units)
        self.job.note(equal_axes=1)

    def run(self, limit: int, workers: Workers) -> None:
        """Record, then draw one point after the other, and check."""
        found = [
            recorded(self.model, texts, self.points, self.where, limit // len(self.texts),
                     self.job.tick, self._recorded, workers)
            for texts in self.texts
        ]  # fmt: skip
        before: list[np.ndarray | None] = [None, None]
        for place in range(len(self.points)):
            states = np.concatenate(
                [one.states[place][kept] for one, kept in zip(found, self.kept, strict=True)],
                dtype=np.float64,
            )
            before = self._point(place, states, before)
            self.job.progress(place + 1, len(self.points), "layers")
        check_alone(self.job, self.model, self.rows, self.points, self.where, found[0].states)
        self._check()
        self.job.note(passes=len(self.texts), states=len(self.items.text))

    def _recorded(self, done: int, total: int) -> None:
        self.job.progress(done, total, "tokens")

    def _point(
        self, place: int, states: np.ndarray, before: Sequence[np.ndarray | None]
    ) -> list[np.ndarray | None]:
        """Fit the planes of one point, hand its coordinates over, and count."""
        self.job.tick()
        own = states[self.fitted]
        base = principal(own)
        planes = self._planes(base, own)
        drawn: list[np.ndarray | None] = [None, None]
        for row in range(2 if self.lda else 1):
            planes[row] = turned(before[row], planes[row], states[self.shown], self.align)
            drawn[row] = planes[row](states[self.shown])
        there = np.stack([one for one in drawn if one is not None]).astype(np.float32)
        explained = shares(planes[0], own)
        arrays = {
            "x": there[..., 0],
            "y": there[..., 1],
            "explained": np.concatenate([explained, self._chance(own, planes)]),
        }
        if self.sides is not None:
            found = self._told(states, planes, self.sides)
            arrays |= dict(zip(TOLD, found if len(base.variance) else found * np.nan, strict=True))
        self.job.emit({"point": place}, arrays)
        self._compare(own, base, planes[0], explained)
        return drawn

    def _planes(self, base: Principal, own: np.ndarray) -> list[Plane]:
        """The plane of the labels and, where planes know labels, of shuffled ones."""
        if not self.lda:
            return [main_plane(base)]
        found = []
        for label in (self.items.label, *self.draws):
            self.job.tick()
            place = np.unique(label[self.fitted], return_inverse=True)[1]
            found.append(discriminants(base, own, place, self.components))
        return found

    def _chance(self, own: np.ndarray, planes: Sequence[Plane]) -> np.ndarray:
        """Shares of the variance along the axes of what says nothing."""
        if self.lda:
            return shares(planes[1], own)
        mixed = np.random.default_rng(self.seed).permuted(own, axis=0)
        return shares(main_plane(principal(mixed)), mixed)

    def _told(self, states: np.ndarray, planes: Sequence[Plane], sides: Sides) -> np.ndarray:
        """Share told right, ``[value or end, space]``: in the plane, in all; then of shuffled."""
        right: list[list[np.ndarray]] = [[], []]
        for number, label in enumerate((self.items.label, *self.draws)):
            self.job.tick()
            plane = planes[number] if self.lda else planes[0]
            right[0].append(told(plane(states), label, sides))
            right[1].append(told(states, label, sides))
        unit = self.items.text[sides[1]]
        found = [share_between(one[0], unit) for one in right]
        return np.array([*found, *(between_draws(one[1:]) for one in right)]).T

    def _compare(
        self, own: np.ndarray, base: Principal, plane: Plane, explained: np.ndarray
    ) -> None:
        """Hold components and planes to the states themselves."""
        if not len(base.variance):
            return
        some = own[:COMPARED]
        known, found = (_distances(one) for one in (some, base(some)))
        gap = float(np.abs(known - found).max() / max(float(known.max()), 1e-300))
        self._worst("distances", gap)
        if self.lda:
            self._worst("discriminants", plane.off)
        elif self.align == "signs":
            first = np.zeros(2)
            first[: len(base.variance[:2])] = base.variance[:2] / own.var(0).sum()
            self._worst("variance", float(np.abs(explained - first).max()))

    def _worst(self, name: str, error: float) -> None:
        self.off[name] = max(self.off.get(name, 0.0), error)

    def _check(self) -> None:
        what = {
            "distances": "between states against those along all components, of the largest",
            "discriminants": "scatter of labels along the first axis against its eigenvalue",
            "variance": "of the states along the axes against the eigenvalues, of all variance",
        }
        for name, error in self.off.items():
            self.job.check(name, error, KEPT, what[name])


def _distances(states: np.ndarray) -> np.ndarray:
    found: np.ndarray = np.linalg.norm(states[:, None] - states[None], axis=-1)
    return found
