"""What takes the place of a state that is erased: a mean, or as far away at random."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from layerlens.analyses.texts.text_pair import row_of
from layerlens.errors import InputError
from layerlens.model.integers import whole
from layerlens.model.sites import Site
from layerlens.run.changes import Change
from layerlens.run.forward import forward

if TYPE_CHECKING:
    from layerlens.analyses.contract.job import Job
    from layerlens.model.lensmodel import LensModel
    from layerlens.model.text import Tokens


EFFECTS = ("effect", "effect_chance")
"""What is measured: with the state erased, and with it moved as far at random."""


class Means:
    """What takes the place of states: means over tokens of texts.

    Attributes
    ----------
    words
        What they are of.
    passes
        Passes used for them.
    """

    def __init__(
        self, job: Job, model: LensModel, texts: list[Tokens], reference: Any, skip: int
    ) -> None:
        if whole(skip, "skip_first") < 0:
            raise InputError(f"skip_first is {skip}; expected 0 or more tokens.")
        self._given = reference is not None
        if self._given:
            others = job.tokens(reference)
            texts = [row_of(others, row) for row in range(len(others.ids))]
        self.passes = len(texts)
        self._sums, counts = [], []
        for text in texts:
            job.tick()
            total, count = _summed(model, text, skip)
            self._sums.append(total)
            counts.append(count)
        self._counts = counts
        self._alone = len(texts) == 1 and not self._given
        whose = "the reference texts" if self._given else "the other texts given"
        self.words = (
            "the mean state of the text's own tokens" if self._alone else f"the mean of {whose}"
        )

    def of(self, row: int) -> Tensor:
        """Mean state before each layer, ``[layer, d_model]`` float64, for one of the texts."""
        every = self._given or self._alone
        used = [i for i in range(len(self._sums)) if every or i != row]
        count = sum(self._counts[i] for i in used)
        if not count:
            raise InputError(
                "No token is left for the mean state: give longer texts with reference=, or "
                "skip_first=False."
            )
        return torch.stack([self._sums[i] for i in used]).sum(0) / count


def _summed(model: LensModel, text: Tokens, skip: int) -> tuple[Tensor, int]:
    """Sum ``[layer, d_model]`` of the states before each layer, and of how many tokens."""
    sums: list[Tensor] = []

    def add(_: Site, state: Tensor) -> None:
        sums.append(state[0, skip:].cpu().double().sum(0))

    sites = [Site("resid_pre", layer) for layer in range(model.n_layers)]
    forward(model, text, sites, add, logits=None)
    return torch.stack(sums), max(0, text.ids.shape[1] - skip)


def put(layer: int, at: int, state: Tensor) -> Change:
    """Set the state before a layer at one token."""
    return Change(Site("resid_pre", layer), "set", state.unsqueeze(0), positions=(at,))


def instead(state: Tensor, mean: Tensor, random: torch.Generator | None) -> Tensor:
    """What takes the place of a state ``[d_model]``: the mean, or with ``random`` as far away."""
    new = mean.to(state.device if state.device.type != "mps" else "cpu")
    return (new if random is None else _moved(state, new, random)).to(state)


def _moved(state: Tensor, mean: Tensor, random: torch.Generator) -> Tensor:
    """The state moved in a random direction, as far as the mean is away."""
    here = state.to(mean)
    way = torch.randn(len(mean), generator=random, dtype=torch.float64).to(mean.device)
    found: Tensor = here + way * ((mean - here).norm() / way.norm())
    return found
