"""The work of ``finercut``: trials side by side, each from the stored state before its layer."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from contextlib import ExitStack
from typing import TYPE_CHECKING, NamedTuple

import numpy as np
import torch
from torch import Tensor

from layerlens.analyses.answers.prediction_change import DISTANCES, Outputs
from layerlens.analyses.contract.contract import Job
from layerlens.analyses.sweeps.clean_pass import Pass, TokenMeans, passes
from layerlens.errors import SiteError
from layerlens.metrics.batch import split
from layerlens.run.skip import mute, require_part

if TYPE_CHECKING:
    from layerlens.model.lensmodel import LensModel
    from layerlens.model.text import Tokens


PARTS = ("attn", "mlp")
TRIAL_TOKENS = 8192
"""Tokens of trials that are run side by side."""
KEPT_BYTES = 400_000_000
"""What the clean passes of all batches may take to be kept from step to step."""


class Unit(NamedTuple):
    """One sublayer that can be left out."""

    layer: int
    part: str


def units_of(model: LensModel) -> list[Unit]:
    """Every sublayer that can be left out, in the order in which they run.

    Raises
    ------
    SiteError
        No block has one.
    """
    found = []
    for layer in range(model.n_layers):
        for part in PARTS:
            try:
                require_part(model, part, [layer])
            except SiteError:  # hybrid models: this layer has none
                continue
            found.append(Unit(layer, part))
    if not found:
        require_part(model, PARTS[0])  # raises, and says why
    return found


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
        self._kept: list[tuple[Pass, Outputs]] = []

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
        for one, outputs in self._clean():
            if not step:
                self._whole(one, outputs, clean)
            states = self._states(one)
            for some in self._side_by_side(one, open_):
                finals = [one.taken(state) for state in self._without(one, states, some)]
                found = outputs.compare_each(finals, DISTANCES[self.distance])
                for number, (values, loss) in zip(some, found, strict=True):
                    self._add(totals, losses, number, one, values, loss)
                    so_far = {"distance": totals.mean()[number]}
                    self.job.emit({"step": step, "sublayer": number}, so_far)
                    done += 1
                    self._progress(step + done / (self.batches * len(open_)), steps, number)
        return totals.mean(), losses.mean()

    def _clean(self) -> Iterator[tuple[Pass, Outputs]]:
        """The whole model's pass of each batch; kept from step to step where that is little."""
        if self._kept:
            yield from self._kept
            return
        keep = _kept_bytes(self.model, self.tokens) <= KEPT_BYTES
        for one in passes(self.model, self.tokens, *self.how, self.job.tick, copies=True):
            self.blocks += 3 * self.model.n_layers
            outputs = Outputs(self.model, one.batch, one.taken(one.states[-1]))
            yield one, outputs
            if keep:
                self._kept.append((one, outputs))

    def _side_by_side(self, one: Pass, numbers: list[int]) -> Iterator[list[int]]:
        size = max(1, TRIAL_TOKENS // one.batch.tokens.ids.numel())
        for start in range(0, len(numbers), size):
            yield numbers[start : start + size]

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
        """States before each block without what is gone."""
        if not self.removed:
            return one.states
        first = min(self.units[number].layer for number in self.removed)
        states = one.states[: first + 1]
        for layer in range(first, self.model.n_layers):
            states.append(self._block(one, layer, states[-1]))
        return states

    def _without(
        self, one: Pass, states: list[Tensor], numbers: Sequence[int]
    ) -> tuple[Tensor, ...]:
        """States after the last block, each without one more sublayer; numbers ascend."""
        starting: dict[int, list[int]] = {}
        for number in numbers:
            starting.setdefault(self.units[number].layer, []).append(number)
        rows = states[0][:0]
        for layer in range(min(starting), self.model.n_layers):
            parts = [self._block(one, layer, rows)] if len(rows) else []
            parts += [
                self._block(one, layer, states[layer], [number])
                for number in starting.get(layer, ())
            ]
            rows = torch.cat(parts)
        found: tuple[Tensor, ...] = rows.split(len(states[0]))
        return found

    def _block(self, one: Pass, layer: int, rows: Tensor, also: Iterable[int] = ()) -> Tensor:
        """States after a block without what is gone of it, and without one more sublayer."""
        assert one.rows is not None  # the passes were asked for it
        texts, length = one.batch.tokens.ids.shape
        gone = [number for number in self.removed if self.units[number].layer == layer]
        parts = []
        for some in rows.split(one.rows.at_once):
            self.job.tick()
            with ExitStack() as stack:
                for number in (*gone, *also):
                    part = self.units[number].part
                    mute(self.model, layer, part, tuple(range(length)), len(some), stack)
                parts.append(one.rows(layer, some))
        self.blocks += len(rows) // texts
        return torch.cat(parts)

    def _add(
        self,
        totals: TokenMeans,
        losses: TokenMeans,
        number: int,
        one: Pass,
        values: Tensor,
        loss: Tensor,
    ) -> None:
        self.job.tick()
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
                values, loss = outputs.compare(final, DISTANCES[self.distance])
                self._add(totals, losses, 0, one, values, loss)
                self.blocks += 2 * self.model.n_layers
            worst = max(worst, abs(float(totals.mean()[0]) - self.chosen[last - 1]))
        return worst


def _kept_bytes(model: LensModel, tokens: Tokens) -> int:
    """Of the states and clean logits of all batches."""
    widths = (model.n_layers + 1) * model.d_model * model.dtype.itemsize + 4 * model.d_vocab
    return tokens.ids.numel() * widths
