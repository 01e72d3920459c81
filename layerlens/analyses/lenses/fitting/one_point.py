"""One point is fitted and judged: the simpler maps first, and each beside the ones before it."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING

import numpy as np
import torch
from torch import Tensor

from layerlens.analyses.lenses.fitting.affine import (
    PENALTY,
    AffineMap,
    Moments,
    best_penalty,
    mean_shift,
    ridge_map,
)
from layerlens.analyses.lenses.fitting.judge import UNIFORM, Judge, Tally, flat
from layerlens.analyses.lenses.fitting.kl_steps import Lesson, Start, map_of, start_of, train
from layerlens.analyses.lenses.readers import LOGIT

if TYPE_CHECKING:
    from layerlens.analyses.contract.job import Job
    from layerlens.analyses.lenses.fitting.asked import Asked
    from layerlens.analyses.lenses.points import Point

BETTER = 1e-6
"""Nats by which a map has to lower the divergence: less is rounding."""
TRAIN_TOKENS = 1024
"""Tokens that the divergence on the training side is measured on."""


@dataclass
class Material:
    """What one point is fitted on and judged by.

    Attributes
    ----------
    moments
        Sums over the tokens that it is fitted on.
    choosing
        Sums over further ones, on which the penalty is chosen; None where it is not.
    lesson
        What steps learn from; None where there are none.
    states
        ``[n, d_model]`` of the test side.
    text
        ``[n]``: the number of the text of each.
    """

    moments: Moments
    choosing: Moments | None
    lesson: Lesson | None
    states: Tensor
    text: Tensor


@dataclass
class OnePoint:
    """Fits one point after the other.

    Attributes
    ----------
    job, asked
        Of the call.
    judge
        The final answers on the test side.
    teacher
        Those of some tokens on the training side; None without steps.
    index
        Label of a point to its place along the axis.
    lowest, rise
        The smallest divergence of a token, and the largest rise of the mean by steps (nats).
    left_alone
        Points whose map was not better than none.
    """

    job: Job
    asked: Asked
    index: dict[str, int]
    judge: Judge | None = None
    teacher: Judge | None = None
    lowest: float = 0.0
    rise: float = -np.inf
    left_alone: list[str] = field(default_factory=list)

    def fit(self, point: Point, material: Material) -> None:
        """Fit, judge, hand over and show one point."""
        maps, scores = self._maps(point, material)
        means = self._judged(maps, material)
        own, none = list(maps).index(self.asked.kind), list(maps).index(LOGIT)
        found = maps[self.asked.kind]
        if not means["kl"][own] < means["kl"][none] - BETTER:
            found = AffineMap(bias=torch.zeros(self.asked.model.d_model))
            self.left_alone.append(point.label)
            for values in means.values():
                values[own] = values[none]
        scores["test"][f"identity/{point.label}"] = float(point.label in self.left_alone)
        scores["test"] |= flat(means, self.asked.lenses, self.asked.kind, point.label)
        self.job.learned(found.arrays(point), scores)
        arrays = {name: values.astype(np.float32) for name, values in means.items()}
        self.job.emit({"point": self.index[point.label]}, arrays)

    def _maps(
        self, point: Point, material: Material
    ) -> tuple[dict[str, AffineMap], dict[str, dict[str, float]]]:
        """Each lens up to the one that is asked for, and what was found on the way."""
        moments, kind, label = material.moments, self.asked.kind, point.label
        scores: dict[str, dict[str, float]] = {"test": {}}
        maps = {LOGIT: AffineMap()}
        penalty = self.asked.ridge or PENALTY
        if material.choosing is not None:
            penalty = best_penalty(moments, material.choosing)
            moments.merge(material.choosing)
        maps["bias"] = mean_shift(moments)
        if kind == "bias":
            return maps, scores
        maps["ridge"] = ridge_map(moments, penalty)
        scores["test"][f"ridge/{label}"] = penalty
        if kind == "ridge":
            return maps, scores
        assert material.lesson is not None
        start = start_of(moments, maps["ridge"], self.asked.rank)
        maps["tuned"] = train(material.lesson, start)
        scores["train"] = self._learned(material.lesson, start, maps["tuned"], label)
        return maps, scores

    def _learned(
        self, lesson: Lesson, start: Start, end: AffineMap, label: str
    ) -> dict[str, float]:
        """Divergence on the training side, before the steps and after."""
        assert self.teacher is not None
        states = lesson.states[:TRAIN_TOKENS]
        kl = [
            float(self.teacher.measure(one.decode(lesson.model, states))["kl"].mean())
            for one in (end, map_of(start))
        ]
        self.rise = max(self.rise, kl[0] - kl[1])
        return {f"kl/{label}": kl[0], f"kl_start/{label}": kl[1]}

    def _judged(self, maps: dict[str, AffineMap], material: Material) -> dict[str, np.ndarray]:
        """Measure to ``[lens]``, the control last."""
        assert self.judge is not None
        tally = Tally(len(self.asked.lenses))
        for place, name in enumerate(self.asked.lenses):
            if name == UNIFORM:
                measured = self.judge.uniform()
            else:
                x = maps[name].decode(self.asked.model, material.states)
                measured = self.judge.measure(x)
                self.lowest = min(self.lowest, float(measured["kl"].min()))
            tally.add((place,), measured, material.text)
        return tally.means()
