"""Small changes of a text's first states, at random and at their worst, and what they become."""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial
from typing import TYPE_CHECKING, NamedTuple

import numpy as np
import torch
from torch import Tensor

from layerlens.analyses.contract.job import Job
from layerlens.analyses.sensitivity.picked_layers import SURE, far_above, in_words, picked
from layerlens.analyses.sweeps.clean_pass import TokenMeans, tolerance
from layerlens.analyses.texts.text_pair import row_of
from layerlens.metrics.batch import Batch
from layerlens.model.sites import Site
from layerlens.run.changes import Change
from layerlens.run.forward import forward

if TYPE_CHECKING:
    from layerlens.model.lensmodel import LensModel
    from layerlens.model.text import Tokens

STEP = 0.25
"""Length of an ascending step, in lengths of the change."""

WAYS = {"": "", "_chance": ", random changes"}
"""The worst change found and random ones: how names of their numbers end, and their words."""


class Changes(NamedTuple):
    """What is done to one text.

    Parameters
    ----------
    clean
        Its states before the first block and after each one, ``[position, d_model]``.
    loss
        Of the text as it is.
    random, worst
        Changes of its first states, ``[position, d_model]``.
    """

    clean: list[Tensor]
    loss: float
    random: list[Tensor]
    worst: Tensor


class Growth:
    """The work of one call."""

    def __init__(
        self, job: Job, model: LensModel, tokens: Tokens, epsilon: float, skip: int
    ) -> None:
        self.job, self.model, self.tokens = job, model, tokens
        self.epsilon, self.skip = epsilon, skip
        self.growth = {way: TokenMeans(model.n_layers) for way in WAYS}
        self.curves: dict[str, list[np.ndarray]] = {way: [] for way in WAYS}
        self.losses = {way: TokenMeans(1) for way in (*WAYS, "clean")}
        self.passes = 0
        self.off = 0.0

    def add(self, row: int, steps: int, draws: int, seed: int) -> None:
        """Follow the changes of one text."""
        found = self.changes(row, steps, draws, seed)
        self.losses["clean"].add_texts((0,), _one(found.loss), self.batch)
        with torch.no_grad():
            self._count("_chance", found.clean, found.loss, found.random)
            self._count("", found.clean, found.loss, [found.worst])

    def changes(self, row: int, steps: int, draws: int, seed: int) -> Changes:
        """Draw the changes of one text, and move the first towards the worst."""
        text = row_of(self.tokens, row)
        self.text = text.plain
        self.batch = Batch(self.text, [row], self.skip)
        with torch.no_grad():
            clean, loss = self.run(None)
            random = np.random.default_rng((seed, row))
            given = [self._at_length(_normal(random, clean[0]), clean[0]) for _ in range(draws)]
        change = given[0]
        for _ in range(steps):
            self.job.tick()
            change = self._ascended(change, clean[0])
        return Changes(clean, float(loss), given, change)

    def run(self, change: Tensor | None) -> tuple[list[Tensor], Tensor]:
        """States before the first block and after each one, and the loss, of one text."""
        first = Site("resid_pre", 0)
        sites = [first, *(Site("resid_post", layer) for layer in range(self.model.n_layers))]
        states: list[Tensor] = []
        changes = [] if change is None else [Change(first, "add", change)]
        forward(
            self.model,
            self.text,
            sites,
            lambda _, state: states.append(state[0].clone()),
            logits=None,
            changes=changes,
            gradients=True,
        )
        self.passes += 1
        self.job.tick()
        logits = self.model.unembed(states[-1][self.skip : -1]).float()
        wanted = self.text.ids[0, self.skip + 1 :].to(logits.device)
        return states, torch.nn.functional.cross_entropy(logits, wanted)

    def _at_length(self, direction: Tensor, state: Tensor) -> Tensor:
        """The direction of each token at the length that its change has."""
        size = direction.norm(dim=-1, keepdim=True)
        length = self.epsilon * state.norm(dim=-1, keepdim=True)
        found: Tensor = direction / size.where(size > 0, 1.0) * length
        return found

    def _ascended(self, change: Tensor, state: Tensor) -> Tensor:
        """The change after one step along the gradient of the loss, at its length again."""
        leaf = change.detach().clone().requires_grad_()
        _, loss = self.run(leaf)
        self.passes += 2  # the way back
        slope: Tensor = torch.autograd.grad(loss, leaf)[0]
        with torch.no_grad():
            # The last token, whose state no loss hears of, has no slope and stays.
            step = STEP * self._at_length(slope.float(), state.float())
            moved = self._at_length(change.float() + step, state.float())
        return moved.to(change.dtype)

    def _count(self, way: str, clean: list[Tensor], loss: float, changes: Sequence[Tensor]) -> None:
        """Add the growth of these changes, and what they do to the loss, as one text's numbers."""
        growth, losses = [], []
        for change in changes:
            states, other = self.run(change)
            moved = [self._relative(a, b) for a, b in zip(clean, states, strict=True)]
            sizes = (states[0] - clean[0]).norm(dim=-1) / clean[0].norm(dim=-1)
            self.off = max(self.off, float((sizes - self.epsilon).abs().max()) / self.epsilon)
            growth.append(moved[1:])
            losses.append(float(other) - loss)
        mean = torch.tensor(growth, dtype=torch.float64).mean(0, keepdim=True)
        self.curves[way].append(mean[0].numpy())
        self.growth[way].add_texts((slice(None),), mean, self.batch)  # type: ignore[arg-type]
        self.losses[way].add_texts((0,), _one(sum(losses) / len(losses)), self.batch)
        self.job.emit({}, {f"growth{way}": self.growth[way].mean()})

    def _relative(self, clean: Tensor, other: Tensor) -> float:
        clean, other = clean[self.skip :].cpu().double(), other[self.skip :].cpu().double()
        return float((other - clean).norm() / clean.norm())

    def finish(self) -> None:
        """Hand over what needs all texts, and the check."""
        means = {way: self.growth[way].mean() for way in WAYS}
        for way in WAYS:
            low, high = self.growth[way].interval()
            self.job.emit({}, {f"growth{way}_low": low, f"growth{way}_high": high})
            self.job.emit({}, {f"loss_change{way}": self.losses[way].mean()[0]})
            before = np.concatenate([[self.epsilon], means[way][:-1]])
            self.job.emit({}, {f"gain{way}": means[way] / before})
        self._tell_vulnerable()
        ratio = means[""] / means["_chance"]
        self.job.emit({}, {"ratio": ratio, "loss": self.losses["clean"].mean()[0]})
        self.job.note(passes=self.passes / len(self.tokens.ids), method="whole passes")
        what = "how far a change at the first block is from the length asked for, relative"
        self.job.check("length of the change", self.off, tolerance(self.model), what)

    def _tell_vulnerable(self) -> None:
        """Which layers stand out, and which of them do so for random changes, too."""
        rule = partial(far_above, rounding=tolerance(self.model))
        found = {way: picked(rule, np.stack(curves)) for way, curves in self.curves.items()}
        self.job.emit({}, {f"vulnerable{way}": share for way, share in found.items()})
        worst, random = (np.flatnonzero(found[way] >= SURE).tolist() for way in WAYS)
        if not len(worst):
            self.job.remark(
                "No layer stands out: the worst change is nowhere surely more than a standard "
                "deviation above its mean over layers."
            )
            return
        both = [layer for layer in worst if layer in random]
        found_too = f"find {in_words(both)} as well" if both else "find none of them"
        self.job.remark(
            f"The worst change stands out after {in_words(worst)}; random changes {found_too}."
        )


def _one(value: Tensor | float) -> Tensor:
    """A number of one text, ``[1]`` float64."""
    return torch.tensor([float(value)], dtype=torch.float64)


def _normal(random: np.random.Generator, like: Tensor) -> Tensor:
    drawn = torch.from_numpy(random.standard_normal(tuple(like.shape)))
    return drawn.to(like.device, like.dtype)
