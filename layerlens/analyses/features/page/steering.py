"""What a model writes while a direction is added at a site, and how far its answer moves."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from layerlens.analyses.answers.answer_metric import make_metric
from layerlens.analyses.features.activations import by_head
from layerlens.model.sites import Site
from layerlens.run.base import record_base
from layerlens.run.cell import Cell
from layerlens.run.changes import Change
from layerlens.run.edits import Edit, edit
from layerlens.run.generation import generate
from layerlens.run.many_edits import run_cells

if TYPE_CHECKING:
    from layerlens.model.lensmodel import LensModel
    from layerlens.model.text import Tokens


Tick = Callable[[], None]


@dataclass(frozen=True)
class Steering:
    """A text to go on from, and where directions are added: at each of its tokens, and at new ones.

    Parameters
    ----------
    site
        A site of one layer.
    prompt
        One text without padding.
    steps
        Tokens that are written at most.
    """

    model: LensModel
    site: Site
    prompt: Tokens
    steps: int

    @property
    def ids(self) -> list[int]:
        """Tokens of the prompt."""
        found: list[int] = self.prompt.ids[0].tolist()
        return found

    def added(self, step: Tensor) -> Tensor:
        """A direction ``[width]`` as the site takes it: by head, where heads lie side by side."""
        return by_head(self.model, self.site, step)

    def edit(self, step: Tensor) -> Edit:
        """The edit that adds a direction ``[width]`` everywhere."""
        return edit(f"{self.site.kind}.{self.site.block}", "add", self.added(step), always=True)

    def write(self, step: Tensor | None) -> list[int]:
        """Ids of what is written, the likeliest token each time; None: with nothing added."""
        edits = [] if step is None else [self.edit(step)]
        found: list[int] = generate(self.model, self.ids, self.steps, edits).new_ids
        return found

    def divergence(self, step: Tensor) -> float:
        """KL divergence in nats of the first token's distribution, from the model's own."""
        everywhere = tuple(range(len(self.ids)))
        change = Change(self.site, "add", self.added(step), everywhere)
        return divergences(self.model, self.prompt, [change])[0]


def divergences(
    model: LensModel, tokens: Tokens, changes: Sequence[Change], tick: Tick = lambda: None
) -> list[float]:
    """KL divergences in nats of what comes after a text with each change, from its own."""
    base = record_base(model, tokens, asked=tokens.ids.shape[1] - 1)
    measure = make_metric(model, "kl", final=base.final)
    found = [0.0] * len(changes)

    def take(numbers: Sequence[int], final: Tensor) -> None:
        for number, kl in zip(numbers, measure(final).tolist(), strict=True):
            found[number] = kl

    cells = [Cell((change,)) for change in changes]
    run_cells(model, base, cells, take, tick=tick, at_once=len(cells))
    return found


def along(row: Tensor, length: float) -> Tensor:
    """A direction of a length; nothing where it has none of its own."""
    found: Tensor = torch.nn.functional.normalize(row, dim=0) * length
    return found
