"""What a cell of ``layer_gradients`` opens: what a small step against the gradient really does."""

from __future__ import annotations

from contextlib import ExitStack
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from torch import Tensor

from layerlens.analyses.contract.cells import Opened, Place, Table
from layerlens.analyses.sensitivity.curvature import generator, moved
from layerlens.analyses.sensitivity.gradient_cosines import COUPLES
from layerlens.analyses.sensitivity.projection_gradients import PARTS, ProjectionGradients
from layerlens.analyses.sensitivity.responses import Asked, asked
from layerlens.analyses.sensitivity.text_gradients import TextGradients, loss_of

if TYPE_CHECKING:
    from layerlens.analyses.contract.job import Job
    from layerlens.model.lensmodel import LensModel
    from layerlens.model.text import Tokens

STEPS = (0.0001, 0.001, 0.01)
"""Lengths of the steps, as shares of the norm of the weights that are moved."""


def open_step(
    job: Job,
    model: LensModel,
    tokens: Tokens,
    place: Place,
    *,
    responses: Any,
    skip_first: bool | int,
    together: int,
    control: bool,
    seed: int,
    verify: int,
) -> Opened:
    """Move one projection (or the attention, or the MLP) against the first text's gradient."""
    layer = int(place.need("layer"))
    texts = asked(job, tokens, responses, skip_first)
    parts = ProjectionGradients(model)
    named = _named(parts, layer, place)
    step = _Step(job, model, parts, layer, named)
    shuffled = place.labels.get("following") == "shuffled" or "_chance" in place.array
    wanted = step.wanted(texts[0], (seed, 0) if shuffled else None)
    others = [(texts[1], step.wanted(texts[1], None))] if len(texts) > 1 else []
    rows = step.rows((texts[0], wanted), others, seed)
    head = ["step, share of the weights", "foreseen", "true change", "random step as long"]
    words = ", ".join(named) + (", next tokens shuffled" if shuffled else "")
    return Opened(
        title=f"Loss of the first text when {words} of layer {layer} moves against its gradient",
        code=place.call,
        tables=[Table(head + ["the second text's"] * len(others), rows)],
    )


def _named(parts: ProjectionGradients, layer: int, place: Place) -> list[str]:
    """The projections that a cell is of."""
    if "projection" in place.labels:
        return [str(place.labels["projection"])]
    prefix, _, couple = place.array.removesuffix("_chance").partition("_")
    return parts.inside(layer, prefix) if prefix in PARTS else list(COUPLES[couple])


class _Step:
    """Some projections of a block that are moved together."""

    def __init__(
        self, job: Job, model: LensModel, parts: ProjectionGradients, layer: int, named: list[str]
    ) -> None:
        self.job, self.model = job, model
        held = [part for part in parts.every(layer) if part.name in named]
        # Of a matrix that holds several projections, only the rows of those that were named.
        self.rows_of: dict[int, list[Tensor | None]] = {}
        self.matrices = {}
        for part in held:
            for matrix in part.matrices:
                self.matrices[id(matrix.parameter)] = matrix
                self.rows_of.setdefault(id(matrix.parameter), []).append(part.rows)
        self.weights = [matrix.parameter for matrix in self.matrices.values()]

    def wanted(self, one: Asked, seed: tuple[int, int] | None) -> Tensor:
        """What should come next in a text; with a seed, shuffled."""
        following = one.text.ids[0, one.skip + 1 :].clone()
        if seed is None:
            return following
        return following[torch.from_numpy(np.random.default_rng(seed).permutation(len(following)))]

    def rows(
        self, own: tuple[Asked, Tensor], others: list[tuple[Asked, Tensor]], seed: int
    ) -> list[list[float]]:
        """A row of the table for each length."""
        slope = self._masked(self._gradient(*own))
        norm = float(slope.norm())
        size = float(self._masked([p.detach() for p in self.weights]).norm())
        drawn = torch.randn(slope.shape, generator=generator(seed)).to(slope)
        random = self._masked(list(self._split(drawn)))
        before = [self._loss(*text) for text in (own, *others)]
        found = []
        for share in STEPS:
            far = share * size
            true = self._changes([own, *others], before, -slope / max(norm, 1e-30), far)
            chance = self._changes([own], before, random / random.norm(), far)
            found.append([share, -norm * far, true[0], chance[0], *true[1:]])
        return found

    def _gradient(self, one: Asked, wanted: Tensor) -> list[Tensor]:
        with torch.enable_grad():
            text = TextGradients(self.model, one.text, one.skip, self.job.tick)
            return text.whole_way(wanted, self.weights)[1:]

    def _masked(self, parts: list[Tensor]) -> Tensor:
        """All numbers of the weights in a row, 0 where they are another projection's."""
        found = []
        for part, (key, matrix) in zip(parts, self.matrices.items(), strict=True):
            kept = torch.zeros_like(part)
            whole, own = (x.mT if matrix.turned else x for x in (kept, part))
            for rows in self.rows_of[key]:
                at = slice(None) if rows is None else rows.to(part.device)
                whole[..., at, :] = own[..., at, :]
            found.append(kept.reshape(-1))
        return torch.cat(found)

    def _split(self, flat: Tensor) -> list[Tensor]:
        parts = flat.split([p.numel() for p in self.weights])
        return [part.view_as(p) for part, p in zip(parts, self.weights, strict=True)]

    def _changes(
        self, texts: list[tuple[Asked, Tensor]], before: list[float], way: Tensor, far: float
    ) -> list[float]:
        with ExitStack() as stack:
            stack.enter_context(moved(self.weights, way, far))
            after = [self._loss(*text) for text in texts]
        return [a - b for a, b in zip(after, before, strict=False)]

    def _loss(self, one: Asked, wanted: Tensor) -> float:
        self.job.tick()
        with torch.no_grad():
            return float(loss_of(self.model, one.text, one.skip, wanted))
