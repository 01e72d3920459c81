"""The work of one call of ``series``: each run asked in turn, its parts handed on as they come."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import replace
from typing import TYPE_CHECKING, Any

import numpy as np

from layerlens.analyses.contract.listeners import Silent
from layerlens.errors import Cancelled, InputError
from layerlens.result.layers import RUN

if TYPE_CHECKING:
    from layerlens.analyses.contract.asking import Analysis
    from layerlens.analyses.contract.job import Job
    from layerlens.analyses.contract.parts import Coords, Variable, Where
    from layerlens.model.runs import Runs
    from layerlens.result import Check, Result

STEPS = 100
"""Steps of the progress of a run."""


class SeriesRun:
    """What one call does.

    Parameters
    ----------
    inner
        The analysis that each run is asked.
    texts, options
        What it is given.
    """

    def __init__(
        self,
        job: Job,
        runs: Runs,
        inner: Analysis,
        texts: Mapping[str, Any],
        options: Mapping[str, Any],
    ) -> None:
        self.job, self.runs, self.inner = job, runs, inner
        self.texts, self.options = texts, options
        self.sizes: dict[str, int] | None = None
        self.coords: dict[str, Any] = {}
        self.worst: dict[str, tuple[Check, Any]] = {}
        self.passes = 0.0
        self.numbered = all(type(label) is int for label in runs.labels)

    def run(self) -> None:
        """Ask every run, and say how the checks stand."""
        about = self.inner.about
        question = f"Along a training: {about.question}"
        self.job.note(asked=self.inner.name, question=question, source=about.source)
        if not self.numbered:
            self.job.note(doses="[]")  # a slider has numbers
        for place, label in enumerate(self.runs.labels):
            self.job.tick()
            self._one(place, label)
        self.job.note(passes=self.passes)
        for check, label in self.worst.values():
            self.job.check(check.name, check.error, check.limit, f"{check.what} (at run {label})")

    def _one(self, place: int, label: Any) -> None:
        relay = Relay(self, place)
        try:
            found = self.inner.run(self.runs.model(place), self.texts, self.options, relay)
        except Cancelled:
            self.job.tick()  # raises as this analysis does when it is stopped
            raise
        self.passes += float(found.data.attrs["passes"])
        for check in found.checks:
            known = self.worst.get(check.name)
            if known is None or _strain(check) > _strain(known[0]):
                self.worst[check.name] = check, label
        if place == 0:
            self._describe(found)
        for note in json.loads(found.data.attrs["notes"]):
            self.job.remark(note)

    def _describe(self, found: Result) -> None:
        """Take over what the first run said of its arrays beside what was declared."""
        for name, array in found.data.data_vars.items():
            about = {word: str(array.attrs[word]) for word in ("long_name", "units")}
            self.job.describe(str(name), **about)

    def declare(
        self,
        place: int,
        sizes: Mapping[str, int],
        coords: Coords,
        variables: Mapping[str, Variable],
    ) -> None:
        """Declare what the first run does, with one more axis; hold the others to it.

        Raises
        ------
        InputError
            The axes of two runs differ.
        """
        if self.sizes is None:
            self._begin(sizes, coords, variables)
            return
        first, label = self.runs.labels[0], self.runs.labels[place]
        for axis in {*sizes, *self.sizes}:
            same = sizes.get(axis) == self.sizes.get(axis)
            same &= _same(coords.get(axis), self.coords.get(axis))
            if not same:
                raise InputError(
                    f"The axis {axis} of {self.inner.name} is not the same at run {label} as at "
                    f"run {first}: give options that fix it, or ask each run by itself."
                )
        self.compare(coords, label)

    def compare(self, coords: Coords, label: Any) -> None:
        """Remark on coordinates that are not those of the first run."""
        for name, found in coords.items():
            if not _same(found, self.coords.get(name)):
                self.job.remark(
                    f"{name} differs between runs (at {label}); what stands there is that of run "
                    f"{self.runs.labels[0]}."
                )

    def _begin(
        self, sizes: Mapping[str, int], coords: Coords, variables: Mapping[str, Variable]
    ) -> None:
        labels = self.runs.labels
        self.sizes, self.coords = dict(sizes), dict(coords)
        more = {
            name: replace(variable, dims=(RUN, *self._axes(variable, sizes)), summary=False)
            for name, variable in variables.items()
        }
        run = np.array(labels if self.numbered else [*map(str, labels)])
        self.job.declare(
            {**sizes, RUN: len(labels)}, {**coords, RUN: ((RUN,), run)}, variables=more
        )

    def _axes(self, variable: Variable, sizes: Mapping[str, int]) -> tuple[str, ...]:
        """Its axes, with that of texts where each has an answer of its own."""
        axes = variable.axes(sizes) or ()
        return ("batch", *axes) if "batch" in sizes and not variable.summary else axes


class Relay(Silent):
    """Hands on what one run says."""

    def __init__(self, series: SeriesRun, place: int) -> None:
        self._series, self._job, self._place = series, series.job, place

    def on_declare(
        self, sizes: Mapping[str, int], coords: Coords, variables: Mapping[str, Variable]
    ) -> None:
        """Declare once."""
        self._series.declare(self._place, sizes, coords, variables)

    def on_emit(self, where: Where, arrays: Mapping[str, np.ndarray]) -> None:
        """Put a part at its run."""
        self._job.emit({**where, RUN: self._place}, arrays)

    def on_shorten(self, axis: str, length: int) -> None:
        """Refuse: how long the others will be is not known."""
        del length
        raise InputError(
            f"The axis {axis} of {self._series.inner.name} ends where each run ends it, so runs "
            "cannot stand side by side: ask each by itself."
        )

    def on_label(self, coords: Coords) -> None:
        """Take the names of the first run; say where others differ."""
        if self._place == 0:
            self._series.coords.update(coords)
            self._job.label(coords)
        else:
            self._series.compare(coords, self._series.runs.labels[self._place])

    def on_progress(self, done: int, total: int, what: str) -> None:
        """Tell how far all runs are."""
        labels = self._series.runs.labels
        part = min(STEPS, round(STEPS * done / total)) if total else 0
        said = f"run {labels[self._place]}" + (f", {what}" if what else "")
        self._job.progress(self._place * STEPS + part, len(labels) * STEPS, said)

    def cancelled(self) -> bool:
        """Whether someone stopped all."""
        try:
            self._job.tick()
        except Cancelled:
            return True
        return False


def _same(one: Any, other: Any) -> bool:
    if one is None or other is None:
        return one is other
    return one[0] == other[0] and np.array_equal(np.asarray(one[1]), np.asarray(other[1]))


def _strain(check: Check) -> float:
    """How near to its limit a check is; above 1 it does not hold."""
    return check.error / check.limit if check.limit else float(check.error > 0) * np.inf
