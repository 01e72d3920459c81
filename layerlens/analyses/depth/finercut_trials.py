"""The work of ``finercut``: trial after trial, from the stored state before each."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from typing import TYPE_CHECKING, NamedTuple

import numpy as np
from torch import Tensor

from layerlens.analyses.answers.prediction_change import DISTANCES, Outputs
from layerlens.analyses.contract.contract import Job
from layerlens.analyses.sweeps.clean_pass import Pass, TokenMeans, passes
from layerlens.metrics.batch import split
from layerlens.run.skip import mute

if TYPE_CHECKING:
    from layerlens.model.lensmodel import LensModel
    from layerlens.model.text import Tokens


class Unit(NamedTuple):
    """One sublayer that can be left out."""

    layer: int
    part: str


class Cut:
    """The work of one call.

    Attributes
    ----------
    removed
        Numbers of the sublayers that are gone, in order.
    blocks
        How many blocks were run so far.
    zero, largest
        Largest distance of the whole model from itself, and of any trial.
    """

    def __init__(
        self,
        job: Job,
        model: LensModel,
        tokens: Tokens,
        units: list[Unit],
        distance: str,
        protected: int,
        skip_first: bool | int,
        batch_size: int | None,
    ) -> None:
        self.job, self.model, self.tokens = job, model, tokens
        self.units, self.distance, self.protected = units, distance, protected
        self.how = (skip_first, batch_size)
        self.batches = len(split(tokens, batch_size))
        self.removed: list[int] = []
        self.chosen: list[float] = []
        self.blocks = 0
        self.zero = self.largest = 0.0

    def run(self, steps: int) -> None:
        """Leave out as many sublayers as asked for."""
        for step in range(steps):
            open_ = self._open()
            distances, losses = self._trials(step, steps, open_)
            best = min(open_, key=lambda number: (distances[number], number))
            self.removed.append(best)
            self.chosen.append(float(distances[best]))
            self.largest = max(self.largest, float(np.nanmax(distances)))
            arrays = {
                "distance": distances,
                "removed": np.array(best),
                "removed_layer": np.array(self.units[best].layer),
                "removed_distance": distances[best],
                "removed_loss": losses[best],
            }
            self.job.emit({"step": step}, arrays)

    def _open(self) -> list[int]:
        """What may be left out next: the first ones only when nothing else is left."""
        there = [number for number in range(len(self.units)) if number not in self.removed]
        return [number for number in there if number >= self.protected] or there

    def _trials(self, step: int, steps: int, open_: list[int]) -> tuple[np.ndarray, np.ndarray]:
        """Distance and loss without each candidate, ``[sublayer]``; NaN for the others."""
        totals, losses, clean = (TokenMeans(len(self.units)) for _ in range(3))
        done = 0
        for one in passes(self.model, self.tokens, *self.how, self.job.tick):
            self.blocks += self.model.n_layers
            outputs = Outputs(self.model, one.batch, one.taken(one.states[-1]))
            if not step:
                self._whole(one, outputs, clean)
            with self._muted(one, self.removed):
                states = self._states(one)
                for number in open_:
                    final = self._without(one, states, number)
                    self._add(totals, losses, number, one, outputs, final)
                    so_far = {"distance": totals.mean()[number]}
                    self.job.emit({"step": step, "sublayer": number}, so_far)
                    done += 1
                    self._progress(step + done / (self.batches * len(open_)), steps, number)
        return totals.mean(), losses.mean()

    def _progress(self, share: float, steps: int, number: int) -> None:
        unit = self.units[number]
        self.job.progress(round(1000 * share), 1000 * steps, f"without {unit.part} {unit.layer}")

    def _whole(self, one: Pass, outputs: Outputs, clean: TokenMeans) -> None:
        """The loss of the whole model, and its distance from itself."""
        clean.add((0,), outputs.loss, one.batch)
        self.job.emit({}, {"loss": clean.mean()[0]})
        same, _ = outputs.compare(one.taken(one.states[-1]), DISTANCES[self.distance])
        self.zero = max(self.zero, float(same.abs().max()))

    def _states(self, one: Pass) -> list[Tensor]:
        """States before each block without what is gone; call it where that is muted."""
        if not self.removed:
            return one.states
        first = min(self.units[number].layer for number in self.removed)
        states = one.states[: first + 1]
        for layer in range(first, self.model.n_layers):
            states.append(one.run(states[-1], [layer]))
        self.blocks += self.model.n_layers - first
        return states

    def _without(self, one: Pass, states: list[Tensor], number: int) -> Tensor:
        """States after the last block without one more sublayer, ``[n, d_model]``."""
        layer = self.units[number].layer
        later = range(layer, self.model.n_layers)
        self.blocks += len(later)
        with self._muted(one, [number]):
            return one.taken(one.run(states[layer], later))

    @contextmanager
    def _muted(self, one: Pass, numbers: list[int]) -> Iterator[None]:
        texts, length = one.batch.tokens.ids.shape
        with ExitStack() as stack:
            for number in numbers:
                layer, part = self.units[number]
                mute(self.model, layer, part, tuple(range(length)), texts, stack)
            yield

    def _add(
        self,
        totals: TokenMeans,
        losses: TokenMeans,
        number: int,
        one: Pass,
        outputs: Outputs,
        final: Tensor,
    ) -> None:
        self.job.tick()
        values, loss = outputs.compare(final, DISTANCES[self.distance])
        losses.add((number,), loss, one.batch)
        if self.distance == "norm":
            totals.add_texts((number,), one.batch.kept.by_text(values).sqrt(), one.batch)
        else:
            totals.add((number,), values, one.batch)

    def verify(self, steps: int) -> float:
        """Largest difference of the last steps' distances from passes of the whole model."""
        worst = 0.0
        for last in range(len(self.removed), max(0, len(self.removed) - steps), -1):
            totals, losses = TokenMeans(len(self.units)), TokenMeans(len(self.units))
            gone = [self.units[number] for number in self.removed[:last]]
            for one in passes(self.model, self.tokens, *self.how, self.job.tick):
                outputs = Outputs(self.model, one.batch, one.taken(one.states[-1]))
                final = one.taken(one.without(sublayers=gone))
                self._add(totals, losses, 0, one, outputs, final)
                self.blocks += 2 * self.model.n_layers
            worst = max(worst, abs(float(totals.mean()[0]) - self.chosen[last - 1]))
        return worst
