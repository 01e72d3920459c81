"""The work of `ll.information_plane`: every run layer by layer, its controls and its checks."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

import numpy as np

from layerlens.analyses.contract.tolerances import logit_tolerance
from layerlens.analyses.information.estimators import Bins, Found, Kernels, Neighbours, entropy
from layerlens.analyses.information.known_information import SHARES, estimated
from layerlens.errors import InputError
from layerlens.model.integers import whole

if TYPE_CHECKING:
    from layerlens.analyses.contract.contract import Job
    from layerlens.analyses.information.run_states import Inputs
    from layerlens.model.runs import Runs

NOTABLE = 0.01
"""Nats by which information may grow from a layer to the next before it is remarked on."""
ENDS = (0.025, 0.975)


class PlaneRun:
    """What one call does.

    Parameters
    ----------
    given
        The inputs.
    place
        ``[n]`` the number of each one's label.
    estimator
        What estimates.
    shuffles, seed
        As of the analysis.
    """

    def __init__(
        self,
        job: Job,
        runs: Runs,
        given: Inputs,
        place: np.ndarray,
        estimator: Bins | Kernels | Neighbours,
        shuffles: int,
        seed: int,
    ) -> None:
        if whole(shuffles, "shuffles") < 1:
            raise InputError(f"shuffles is {shuffles}; expected at least 1.")
        self.job, self.runs, self.given = job, runs, given
        self.estimator, self.seed = estimator, seed
        random = np.random.default_rng(seed)
        self.labels = np.stack([place, *(random.permutation(place) for _ in range(shuffles))])
        self.entropy, self.most = entropy(place), float(np.log(given.count))
        self.beyond = self.apart = 0.0
        self.widths: list[int] = []
        self.gains: list[tuple[float, int, int]] = []

    def run(self, names: Sequence[str]) -> None:
        """Estimate everything; ``names`` are the variables there are."""
        self._declare(names)
        for run in range(len(self.runs.labels)):
            self._layers(run)
        self._gaussians()
        self._say_gains()
        self.job.note(passes=len(self.runs.labels), inputs_count=self.given.count)
        self._check()

    def _declare(self, names: Sequence[str]) -> None:
        labels, points = self.runs.labels, self.runs.points
        numbers = all(type(label) is int for label in labels)
        truths = np.array(SHARES) * self.most
        first = -1 if self.runs.texts else 0  # a model's first state is its embedding
        self.job.declare(
            {"run": len(labels), "layer": len(points), "known": len(truths)},
            {
                "layer": (("layer",), np.arange(first, first + len(points), dtype=np.int32)),
                "layer_name": (("layer",), np.array(points)),
                "run": (("run",), np.array(labels if numbers else [*map(str, labels)])),
                "known": (("known",), np.array([f"{truth:.2f} nats" for truth in truths])),
                "known_nats": (("known",), truths),
            },
            only=names,
        )
        if "I_XT_lower" in names:
            self.job.describe("I_XT", long_name="upper bound of I(X;T)")
            self.job.describe("I_TY", long_name="I(T;Y) as a difference of upper bounds")
        said = {"label_entropy": self.entropy, "most": self.most}
        self.job.emit({}, {name: np.array(value) for name, value in said.items()})

    def _layers(self, run: int) -> None:
        """Estimate for every layer of a run."""
        points, last = self.runs.points, run == len(self.runs.labels) - 1
        alone = self.given.alone(run) if last else []
        before = np.inf
        for point, states in enumerate(self.given.layers(run)):
            self.job.tick()
            found = self.estimator.of(states, self.labels)
            self._emit(point, run, found)
            self.gains.append((found.inputs - before, run, point))
            before = found.inputs
            if last:
                self.widths.append(states.shape[1])
                size = max(1.0, float(np.abs(states).max()))
                off = float(np.abs(alone[point] - states[:1]).max()) / size
                self.apart, self.states = max(self.apart, off), states
            done = run * len(points) + point + 1
            self.job.progress(done, len(self.runs.labels) * len(points), "layers")

    def _emit(self, point: int, run: int, found: Found) -> None:
        drawn = found.labels[1:]
        low, high = np.quantile(drawn, ENDS)
        numbers = {
            "I_XT": found.inputs,
            "I_TY": found.labels[0],
            "shuffled_I_TY": drawn.mean(),
            "shuffled_I_TY_low": low,
            "shuffled_I_TY_high": high,
        }
        over = [found.inputs - self.most, *(found.labels - min(self.entropy, found.inputs))]
        if found.inputs_lower is not None and found.labels_lower is not None:
            numbers |= {"I_XT_lower": found.inputs_lower, "I_TY_lower": found.labels_lower[0]}
            over += [found.inputs_lower - found.inputs]
            over += [*(found.labels_lower - min(self.entropy, found.inputs_lower))]
        self.beyond = max(self.beyond, *map(float, over))
        arrays = {name: np.array(value) for name, value in numbers.items()}
        self.job.emit({"run": run, "layer": point}, arrays)

    def _gaussians(self) -> None:
        """Say how wrong the estimator is where the answer is known."""
        known: dict[int, np.ndarray] = {}
        for point, width in enumerate(self.widths):
            if width not in known:
                off = []
                for share in SHARES:
                    self.job.tick()
                    truth, count = share * self.most, self.given.count
                    off.append(estimated(self.estimator, truth, count, width, self.seed) - truth)
                known[width] = np.array(off)
            self.job.emit({"layer": point}, {"gaussian_bias": known[width]})

    def _say_gains(self) -> None:
        """Say whether a layer seems to know more than the one that it is computed from."""
        if self.runs.texts or len(self.runs.points) < 2:
            return
        most, run, point = max(self.gains)
        self.job.note(most_gain=most)
        if most <= NOTABLE:
            self.job.remark(f"No layer has {NOTABLE} nats more on the inputs than the one before.")
            return
        self.job.remark(
            f"At run {self.runs.labels[run]}, layer {self.runs.points[point]!r} has {most:.2f} "
            f"nats more on the inputs than {self.runs.points[point - 1]!r} before it, which "
            "nothing computed from that layer alone can have (data-processing inequality): "
            "differences between layers of that size are the estimator's."
        )

    def _check(self) -> None:
        """Compare with the first input by itself, with bounds, and with a label that all have."""
        job = self.job
        what = (
            "layers of the first input by itself against those of its batch, of the largest entry"
        )
        job.check("alone as in a batch", self.apart, logit_tolerance(self.runs.dtype), what)
        if not isinstance(self.estimator, Neighbours):
            what = (
                "I(T;Y) beyond H(Y) or I(X;T), I(X;T) beyond ln n, a lower bound beyond the upper"
            )
            job.check("within bounds", self.beyond, 1e-9, what)
        one = self.estimator.of(self.states, np.zeros((1, self.given.count), dtype=int))
        what = "I(T;Y) of the last layer where all have one label, which is 0"
        job.check("one label says nothing", abs(float(one.labels[0])), 1e-9, what)
