"""How well effects that gradients promise agree with those that are measured."""

from __future__ import annotations

import json
from typing import Any

import numpy as np

from layerlens.analyses.contract.contract import Job
from layerlens.analyses.sweeps.cell_sweep import Sweep

STRONGEST = 0.1
"""Share of the measured cells, by their effect, among which the agreement is told too."""

FEWEST_STRONGEST = 8
"""Among fewer a correlation says nothing."""

ALIKE = 0.1
"""Deviation of the strongest cells, as a share of their mean, below which they hardly differ."""

RANKS = 0.7
"""Below this correlation an estimate does not say which of the strongest cells is stronger."""


def flat(metric: Any, direction: str) -> str:
    """Why the gradient of a metric says nothing of a change; "" where it does.

    Parameters
    ----------
    direction
        ``"noise"`` where the run that is changed is the one that the metric compares with.
    """
    if metric == "rank":
        return "a rank has no gradient"
    if metric == "kl" and direction == "noise":
        return (
            "the KL divergence from the clean run is at its minimum in the clean run itself, so "
            "its gradient there is zero and says nothing"
        )
    return ""


class Agreement:
    """How well estimates agree with the true values that are known so far, run by run."""

    def __init__(self, job: Job) -> None:
        self._job = job
        self._changes = np.empty(0)
        self._pearson: list[float] = []
        self._strongest: list[float] = []
        self._alike: list[bool] = []
        self._cells: list[int] = []

    def begin(self, changes: np.ndarray | None, *, again: bool = False) -> None:
        """Go on with the next run, of which this was estimated.

        Parameters
        ----------
        again
            Of the same run with another replacement: what is told is of the newest.
        """
        self._changes = np.empty(0) if changes is None else changes
        if again:
            return
        self._pearson.append(float("nan"))
        self._strongest.append(float("nan"))
        self._alike.append(False)
        self._cells.append(0)

    def note(self, sweep: Sweep) -> None:
        """Compare with the cells of the run that are finished, and say so in the result."""
        sweep.told = self.tell(sweep.values[: len(self._changes)] - sweep.base_value)

    def tell(self, truth: np.ndarray) -> str:
        """Compare with true changes, NaN where not known yet; returns the words of the progress."""
        known = np.isfinite(truth)
        self._pearson[-1] = correlation(self._changes[known], truth[known])
        self._strongest[-1] = among_strongest(self._changes[known], truth[known])
        self._alike[-1] = hardly_differ(truth[known])
        self._cells[-1] = int(known.sum())
        found: dict[str, list[Any]] = {
            "estimate_pearson": self._pearson,
            "estimate_pearson_strongest": self._strongest,
            "strongest_alike": [int(one) for one in self._alike],
            "estimate_cells": self._cells,
        }
        batched = self._job.batched
        self._job.note(**{n: json.dumps(v) if batched else v[0] for n, v in found.items()})
        return f"cells{_said(self._pearson[-1], self._strongest[-1], self._alike[-1])}"

    def remark(self) -> None:
        """Tell the reader how far the estimate is to be trusted."""
        for pearson, strongest, alike, cells in zip(
            self._pearson, self._strongest, self._alike, self._cells, strict=True
        ):
            if np.isfinite(pearson):
                self._job.remark(
                    f"The estimate was compared with {cells} measured cells"
                    f"{_said(pearson, strongest, alike)}."
                )


def _said(pearson: float, strongest: float, alike: bool) -> str:
    """The agreement in words, behind what was compared; "" where nothing can be told."""
    if not np.isfinite(pearson):
        return ""
    few = ""
    if alike:
        few = " (the strongest tenth hardly differ, so there is no order among them to tell)"
    elif np.isfinite(strongest):
        warning = ": do not rank these by it" if strongest < RANKS else ""
        few = f" ({_figure(strongest)} among the strongest tenth{warning})"
    return f", correlation of the estimate {_figure(pearson)}{few}"


def _figure(value: float) -> str:
    return f"{value:.2f}".replace("-", "−")


def hardly_differ(truth: np.ndarray) -> bool:
    """Whether the cells that change most change about equally much.

    A correlation among them is then one with noise: where every early state of a token brings the
    whole answer back, say.
    """
    best = truth[strongest_cells(truth)]
    return len(best) > 0 and bool(np.std(best) < ALIKE * np.abs(best.mean()))


def strongest_cells(truth: np.ndarray) -> np.ndarray:
    """Numbers of the cells that change most; none where these would be too few."""
    count = int(len(truth) * STRONGEST)
    return np.argsort(-np.abs(truth), kind="stable")[: count if count >= FEWEST_STRONGEST else 0]


def among_strongest(estimates: np.ndarray, truth: np.ndarray) -> float:
    """Correlation among the cells that truly change most; NaN of too few, or of equal ones."""
    best = strongest_cells(truth)
    if not len(best) or hardly_differ(truth):
        return float("nan")
    return correlation(estimates[best], truth[best])


def correlation(one: np.ndarray, other: np.ndarray) -> float:
    """Pearson's correlation; NaN of fewer than three numbers, or where one side is constant."""
    if len(one) < 3 or np.std(one) < 1e-12 or np.std(other) < 1e-12:
        return float("nan")
    return float(np.corrcoef(one, other)[0, 1])
