"""The work of ``cross_layer_sensitivity``: runs with changed weights, and second derivatives."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from contextlib import ExitStack
from functools import cache, partial
from typing import TYPE_CHECKING

import numpy as np
import torch
from torch import Tensor

from layerlens.analyses.contract.job import Job
from layerlens.analyses.sensitivity.block_changes import BlockChanges
from layerlens.analyses.sensitivity.curvature import Curvature, moved
from layerlens.analyses.sensitivity.hessian_run import DIFFERENCE, STEP, dot
from layerlens.analyses.sensitivity.responses import Asked
from layerlens.analyses.sensitivity.text_gradients import TextGradients, loss_of
from layerlens.analyses.sweeps.clean_pass import tolerance
from layerlens.analyses.sweeps.intervals import mean_interval

if TYPE_CHECKING:
    from layerlens.model.lensmodel import LensModel

ROUNDING = 1e-6
"""Relative error of gradients, up to which their difference says nothing."""

Added = Callable[[int, int], Tensor]
"""From a block and its partner, as places among those chosen, to what is added to its weights."""


class CrossLayerRun:
    """The work of one call.

    Parameters
    ----------
    layers
        The blocks that are changed, ascending.
    changes
        What is done to them.
    """

    def __init__(
        self,
        job: Job,
        model: LensModel,
        texts: Sequence[Asked],
        layers: Sequence[int],
        changes: BlockChanges,
    ) -> None:
        self.job, self.model, self.layers, self.changes = job, model, layers, changes
        # Each text's pass is kept in its states alone; nothing is recorded.
        self.texts = [TextGradients(model, one.text, one.skip, job.tick) for one in texts]
        self.losses = [self._loss(text, text.states[-1]) for text in self.texts]
        self.passes = float(len(texts))
        # Without a partner in what is added, it is made once for all of them.
        self.true: Added = self._once(changes.of)

    def measure(self, seed: int | None, *, second_order: bool) -> None:
        """Run all pairs, beside random changes where there is a seed, and ask the Hessian."""
        self.job.emit({}, {"loss": np.array(np.mean(self.losses))})
        interaction = self._exact("", self.true)
        if not self.changes.paired:
            self._all_at_once()
        if seed is not None:
            self._exact("_chance", self._once(partial(self.changes.random, seed=seed)))
        self._check_run(interaction)
        if second_order:
            self._second_order(interaction)
        self.job.note(
            passes=self.passes / len(self.texts),
            method="runs with changed weights, from the first changed block on",
        )

    def _once(self, added: Added) -> Added:
        if self.changes.paired:
            return added
        made = cache(lambda place: added(place, place))
        return lambda place, _: made(place)

    def _exact(self, way: str, added: Added) -> np.ndarray:
        """Interactions of all pairs, ``[layer, layer]``, and what each layer costs alone."""
        count, partners = len(self.layers), self._partners()
        shape = (len(self.texts), count, count)
        between, both = np.full(shape, np.nan), np.full(shape, np.nan)
        alone = np.full((len(self.texts), count), np.nan)
        for number, text in enumerate(self.texts):
            own = self.losses[number]
            first = cache(lambda i, j, text=text: self._after(text, i, added(i, j)))
            for i in range(count - 1, -1, -1):
                # Partners lie behind, so that what they cost alone is known where it is shared.
                for j in partners[i] if self.changes.paired else [i, *partners[i]]:
                    states, cost = first(i, j if self.changes.paired else i)
                    if i == j:
                        alone[number, i] = cost - own
                        continue
                    other = alone[number, j]
                    if self.changes.paired:
                        other = self._after(text, j, added(j, i))[1] - own
                    joint = self._after(text, j, added(j, i), states[self.layers[j]])[1] - own
                    both[number, [i, j], [j, i]] = joint
                    between[number, [i, j], [j, i]] = joint - (cost - own) - other
                first.cache_clear()
                self.job.progress(number * count + count - i, len(self.texts) * count, "layers")
            self._show(way, alone[: number + 1], between[: number + 1], both[: number + 1])
        mean, low, high = mean_interval(between)
        self.job.emit({}, {f"interaction{way}_low": low, f"interaction{way}_high": high})
        return mean

    def _partners(self) -> list[list[int]]:
        found: list[list[int]] = [[] for _ in self.layers]
        for i, j in self.changes.pairs:
            found[i].append(j)
        return found

    def _after(
        self, text: TextGradients, place: int, added: Tensor, start: Tensor | None = None
    ) -> tuple[dict[int, Tensor], float]:
        """States before later blocks, and the loss, with one block changed."""
        layer = self.layers[place]
        state = text.states[layer] if start is None else start
        states: dict[int, Tensor] = {}
        with torch.no_grad(), moved(self.changes.groups[place], added, 1.0):
            for number in range(layer, self.model.n_layers):
                self.job.tick()
                states[number] = state
                state = text.calls[number](state)
            self.passes += (self.model.n_layers - layer) / self.model.n_layers
            return states, self._loss(text, state)

    def _loss(self, text: TextGradients, last: Tensor) -> float:
        with torch.no_grad():
            # In the model's own precision: interactions are small differences of losses.
            logits = self.model.unembed(last[0, text.skip : -1])
            wanted = text.following.to(logits.device)
            return float(torch.nn.functional.cross_entropy(logits, wanted))

    def _show(self, way: str, alone: np.ndarray, between: np.ndarray, both: np.ndarray) -> None:
        """Means of the texts so far."""
        self.job.emit({}, {f"interaction{way}": between.mean(0)})
        if not self.changes.paired:
            self.job.emit({}, {f"alone{way}": alone.mean(0)})
        if not way:
            joint = both.mean(0)
            with np.errstate(divide="ignore", invalid="ignore"):
                ratio = (joint - between.mean(0)) / joint
            self.job.emit({}, {"additivity": np.where(np.isfinite(ratio), ratio, np.nan)})
            self._alone = alone.mean(0)

    def _all_at_once(self) -> None:
        """The loss with every block changed."""
        found = []
        with torch.no_grad(), ExitStack() as stack:
            for place, group in enumerate(self.changes.groups):
                stack.enter_context(moved(group, self.true(place, place), 1.0))
            for text, own in zip(self.texts, self.losses, strict=True):
                state = text.states[0]
                for call in text.calls:
                    self.job.tick()
                    state = call(state)
                found.append(self._loss(text, state) - own)
                self.passes += 1
        self.job.emit(
            {}, {"all_at_once": np.array(np.mean(found)), "all_alone": np.array(self._alone.sum())}
        )

    def _check_run(self, interaction: np.ndarray) -> None:
        """One pair again, as plain passes of the whole model."""
        i, j = self.changes.pairs[-1]
        added = {i: self.true(i, j), j: self.true(j, i)}  # of the model's own weights
        found = []
        for places in ((i, j), (i,), (j,), ()):
            with torch.no_grad(), ExitStack() as stack:
                for place in places:
                    stack.enter_context(moved(self.changes.groups[place], added[place], 1.0))
                found.append(np.mean([float(loss()) for loss in self._whole()]))
            self.passes += len(self.texts)
        off = abs(found[0] - found[1] - found[2] + found[3] - interaction[i, j])
        what = "interaction of one pair against passes of the whole model, nats"
        self.job.check("naive agreement", off, tolerance(self.model), what)

    def _whole(self) -> list[Callable[[], Tensor]]:
        return [
            partial(loss_of, self.model, text.text, text.skip, text.following)
            for text in self.texts
        ]

    def _second_order(self, interaction: np.ndarray) -> None:
        """What the Hessian foresees of each pair: a product for each block but the last."""
        groups = self.changes.groups
        own = {id(p) for group in groups for p in group}
        others = [p for p in self.model.hf.parameters() if id(p) not in own]
        curvature = Curvature(groups, self._whole(), others, self.job.tick)
        found = np.full(interaction.shape, np.nan)
        for i, partners in enumerate(self._partners()):
            if not partners:
                continue
            with curvature.products([i], partners) as product:
                parts = product({i: self.true(i, partners[0])})
            for j in partners:
                found[[i, j], [j, i]] = dot(parts[j], self.true(j, i))
            self.passes += 7 * len(self.texts)
            arrays = {"second_order": found, "second_order_error": found - interaction}
            self.job.emit({}, {name: values.copy() for name, values in arrays.items()})
            self.job.progress(i + 1, len(groups), "products")
        self._check_product(curvature, found)

    def _check_product(self, curvature: Curvature, found: np.ndarray) -> None:
        """One term again, from gradients at moved weights, without a second derivative."""
        i, j = self.changes.pairs[0]
        one, other = self.true(i, j), self.true(j, i)
        length = torch.cat([p.detach().flatten() for p in self.changes.groups[i]]).norm()
        step = STEP * float(length / one.norm().clamp(min=1e-30))
        ends = []
        for sign in (1, -1):
            with moved(self.changes.groups[i], one, sign * step):
                slope = curvature.gradient(j)
                ends.append(dot(slope, other))
        wanted = (ends[0] - ends[1]) / (2 * step)
        # Where nothing bends, as behind a norm that undoes a scale, both are rounding.
        rounding = ROUNDING * float(slope.norm() * other.norm()) / step
        most = max(float(np.nanmax(np.abs(found))), abs(wanted), rounding, 1e-30)
        off = abs(found[i, j] - wanted) / most
        what = "second-order term of one pair against gradients at moved weights, of the largest"
        self.job.check("difference of gradients", off, DIFFERENCE, what)
