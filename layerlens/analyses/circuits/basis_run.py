"""The work of ``interaction_basis``: from the logits down, a basis for each state."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING

import numpy as np
import torch
from torch import Tensor

from layerlens.analyses.circuits.basis import (
    Basis,
    Floats,
    effective_rank,
    interaction,
    misfit,
    moved,
    principal,
    random_directions,
)
from layerlens.analyses.circuits.basis_states import BasisBatch, BasisStates, keep_first
from layerlens.analyses.sweeps.clean_pass import tolerance

if TYPE_CHECKING:
    from layerlens.analyses.contract.job import Job

WAYS = {
    "": "coordinates",
    "_baseline": "principal components",
    "_random": "random directions",
}
"""Which directions are kept: how names of their numbers end, and their words."""

LITTLE = 0.1
"""Nats of loss: directions that add no more are enough."""

RANKS = (
    "interaction basis",
    "principal components",
    "interaction basis, untrained",
    "principal components, untrained",
)
"""Of which coordinates there is a rank; those of the untrained model last."""

EXACT = 1e-3
"""How far a covariance of coordinates, or a strength written down otherwise, may be off."""


def sensitivity(
    states: BasisStates,
    point: int,
    after: Basis | None,
    draws: int,
    seed: tuple[int, ...],
    tick: Callable[[], None],
) -> Floats:
    """``M = E[J^T J]`` of what follows a point, ``[d, d]`` float64, without bias.

    Parameters
    ----------
    after
        The basis at the next point, in whose coordinates what follows is measured; None at the
        last: the logits, less their mean over the vocabulary, which no prediction depends on.
    draws
        Random signs over all that follows, for each token; each takes one backward pass.
    """
    generator = np.random.default_rng((*seed, point))
    total, count = None, 0
    for batch in states.batches:
        leaf = batch.states[point].detach().clone().requires_grad_()
        value = _following(states, batch, point, after, leaf)
        where = states.where(batch, point)
        for draw in range(draws):
            tick()
            signs = generator.choice(np.array((-1, 1), dtype=np.float32), tuple(value.shape))
            along = torch.from_numpy(signs).to(value)
            more = draw + 1 < draws
            (found,) = torch.autograd.grad(value, leaf, along, retain_graph=more)
            rows = found[where].float()
            part = (rows.T @ rows).double().cpu()
            total = part if total is None else total + part
        count += int(where.sum())
    assert total is not None
    return np.asarray((total / (draws * count)).numpy())


def _following(
    states: BasisStates, batch: BasisBatch, point: int, after: Basis | None, leaf: Tensor
) -> Tensor:
    """What follows a point, ``[n, k]`` float32: coordinates of the next one, or logits."""
    if after is None:
        logits = states.model.unembed(leaf[states.where(batch, point)]).float()
        return logits - logits.mean(-1, keepdim=True)
    found = states.ahead(batch, point, leaf)
    states.compare(batch, point + 1, found)
    rows = found[states.where(batch, point + 1)].float()
    return rows @ torch.from_numpy(after.read).to(rows)


class BasisRun:
    """The work of one call.

    Parameters
    ----------
    own, apart
        Texts that the bases are of, and texts on which they are tried.
    kept
        How many coordinates are kept.
    shown
        How many coordinates are handed over.
    """

    def __init__(
        self,
        job: Job,
        own: BasisStates,
        apart: BasisStates,
        kept: Sequence[int],
        shown: int,
        draws: int,
        seed: int,
    ) -> None:
        self.job, self.own, self.apart = job, own, apart
        self.kept, self.shown, self.draws, self.seed = kept, shown, draws, seed
        self.misfit = self.moved = self.split = 0.0
        shape = (len(WAYS), own.points, len(self.kept))
        self._added = np.full(shape, np.nan)

    def fit(self, untrained: Callable[[], BasisStates] | None) -> None:
        """Find the bases from the last point to the first, and try each in the other texts."""
        self.job.emit({}, {"loss": np.array(self.apart.loss)})
        after, points = None, self.own.points
        for done, point in enumerate(reversed(range(points))):
            mean, gram, after = self._find(self.own, point, after, "")
            self._try(point, after, mean, gram)
            self.job.progress(done + 1, points, "states")
        if untrained is not None:
            other, after = untrained(), None
            with other.model.running(gradients=True):
                for done, point in enumerate(reversed(range(points))):
                    *_, after = self._find(other, point, after, "_untrained")
                    self.job.progress(done + 1, points, "states, untrained")
        self._check()

    def _find(
        self, states: BasisStates, point: int, after: Basis | None, way: str
    ) -> tuple[Floats, Floats, Basis]:
        """The basis at one point, given that of the next."""
        mean, gram, _ = states.covariance(point)
        found = sensitivity(states, point, after, self.draws, (self.seed,), self.job.tick)
        basis = interaction(mean, gram, found)
        variances = principal(mean, gram).strength
        first = len(RANKS) // 2 if way else 0
        for place, values in enumerate((basis.strength, variances), first):
            self.job.emit({"point": point, "of": place}, {"rank": np.array(effective_rank(values))})
        arrays = {f"share{way}": self._shares(basis.strength)}
        if not way:
            arrays |= {"strength": np.array(basis.strength.sum()), **self._arrays(basis)}
            arrays["share_pca"] = self._shares(variances)
            self.misfit = max(self.misfit, misfit(basis, gram, found))
            generator = np.random.default_rng((self.seed, point))
            self.moved = max(self.moved, moved(gram, found, generator))
        self.job.emit({"point": point}, arrays)
        return mean, gram, basis

    def _shares(self, values: Floats) -> Floats:
        """The first of some values, as shares of all; 0 where there is no coordinate more."""
        found = np.zeros(self.shown)
        some = values[: self.shown]
        found[: len(some)] = some / values.sum() if len(some) else 0.0
        return found

    def _arrays(self, basis: Basis) -> dict[str, np.ndarray]:
        """The first coordinates, with which something else may be computed."""
        width, count = len(basis.mean), min(self.shown, len(basis))
        read, write = np.zeros((self.shown, width)), np.zeros((self.shown, width))
        read[:count], write[:count] = basis.read.T[:count], basis.write[:count]
        return {"read": read, "write": write, "mean": basis.mean}

    def _try(self, point: int, basis: Basis, mean: Floats, gram: Floats) -> None:
        """Keep the first coordinates alone, in texts that were not used."""
        generator = np.random.default_rng((self.seed, point, 1))
        bases = dict(
            zip(WAYS, (basis, principal(mean, gram), random_directions(mean, generator)),
                strict=True)
        )  # fmt: skip
        for place, kept in enumerate(self.kept):
            for row, (way, one) in enumerate(bases.items()):
                loss = self.apart.loss_with(point, keep_first(one, kept)) - self.apart.loss
                self._added[row, point, place] = loss
                self.job.emit(
                    {"point": point, "kept": place}, {f"loss_change{way}": np.array(loss)}
                )
        self._say_added(point, len(mean))
        # All directions there are, each kept: the states themselves, and so the loss of the pass.
        whole = keep_first(bases["_random"], len(mean))
        self.split = max(self.split, abs(self.apart.loss_with(point, whole) - self.apart.loss))

    def _say_added(self, point: int, width: int) -> None:
        """What is added over all states by now, and how many directions are enough at this one."""
        for added, way in zip(self._added, WAYS, strict=True):
            self.job.emit({}, {f"added_loss{way}": np.nanmean(added, 0)})
            enough = first_enough(added[point], self.kept, width)
            self.job.emit({"point": point}, {f"enough{way}": np.array(enough, dtype=np.float64)})

    def _check(self) -> None:
        limit = tolerance(self.own.model)
        what = "covariance of the coordinates from their strengths, and sensitivity by them from 1"
        self.job.check("independent coordinates", self.misfit, EXACT, what)
        what = "strengths with all states written in other coordinates, of the largest"
        self.job.check("strengths are the states' own", self.moved, EXACT, what)
        what = "states after blocks run again against those of the pass, of the largest"
        self.job.check("blocks alone equal the pass", self.own.replayed, limit, what)
        what = "loss with all directions kept, less that of the pass"
        self.job.check("all kept is all", self.split, limit * max(1.0, self.apart.loss), what)

    def say(self, width: int) -> None:
        """Say how it was done, and what a reader should know of it."""
        counted = sum(int(batch.counted.sum()) for batch in self.own.batches)
        self.job.note(
            tokens_counted=counted,
            tokens_apart=self.apart.foretold,
            method="products of random signs with the derivative of what follows, by autograd",
        )
        if counted * self.draws < 4 * width:
            self.job.remark(
                f"The bases are of {counted} tokens with {self.draws} draws each, few for states "
                f"of {width} numbers: give more texts, and trust the losses more than the ranks."
            )


def first_enough(added: Floats, kept: Sequence[int], width: int) -> int:
    """The first of some numbers kept from which on little loss is added; all where none is.

    Examples
    --------
    >>> first_enough(np.array([2.0, 0.05, 0.3, 0.01]), [1, 4, 16, 64], 100)
    64
    """
    above = np.flatnonzero(added > LITTLE)
    first = int(above[-1]) + 1 if len(above) else 0
    return kept[first] if first < len(kept) else width
