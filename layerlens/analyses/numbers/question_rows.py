"""Run a model on questions for sums, with or without some frequencies in its embedding."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import TYPE_CHECKING, NamedTuple

import torch
from torch import Tensor

from layerlens.analyses.numbers.cyclic_basis import CyclicBasis
from layerlens.errors import ActivationError
from layerlens.model.sites import Site
from layerlens.run.changes import Change
from layerlens.run.forward import forward

if TYPE_CHECKING:
    from layerlens.analyses.contract.contract import Job
    from layerlens.analyses.numbers.sums import Sums
    from layerlens.model.lensmodel import LensModel
    from layerlens.model.text import Tokens


class Asked(NamedTuple):
    """Some questions."""

    a: Tensor
    """``[n]`` places of the first numbers."""
    b: Tensor
    """``[n]`` those of the second ones."""
    tokens: Tokens


class QuestionRows:
    """Answers of one model, as logits of the numbers.

    Parameters
    ----------
    removed
        Frequencies that are left out of the embeddings in every pass.

    Attributes
    ----------
    embedding
        ``[period, d_model]`` float64: what stands at b for each number, before anything is removed.
    apart
        Largest difference between a number's embedding at a and at b, of the largest entry.
    """

    def __init__(
        self, job: Job, model: LensModel, sums: Sums, layers: Sequence[int], removed: Sequence[int]
    ) -> None:
        self.job, self.model, self.sums = job, model, sums
        self.layers, self.removed = list(layers), list(removed)
        self.basis = CyclicBasis(sums.period)
        every = torch.arange(sums.period)
        self._same = job.tokens(sums.questions(every, every))
        self.embedding, self.apart = self._embedded()

    def _embedded(self) -> tuple[Tensor, float]:
        """From the questions (n, n), which hold every number at both places."""
        found: list[Tensor] = []

        def keep(_: Site, value: Tensor) -> None:
            found.append(value.double().cpu())

        forward(self.model, self._same, [self.model.anatomy.entry], keep, logits=None)
        at_a, at_b = (found[0][:, at] for at in self.sums.at)
        return at_b, float((at_a - at_b).abs().max() / at_b.abs().max().clamp_min(1e-300))

    def ask(self, a: Tensor, b: Tensor) -> Asked:
        """The questions of pairs of places ``[n]``."""
        at, strings = self.sums.at[0], self._same.strings
        rows = [
            (*strings[y][:at], strings[x][at], *strings[y][at + 1 :])
            for x, y in zip(a.tolist(), b.tolist(), strict=True)
        ]
        # Only a differs from questions that are read already: to read each again takes longer
        # than the model does.
        tokens = self._same.chosen(b.tolist())
        ids = self.sums.questions(a, b)
        return Asked(a, b, replace(tokens, ids=ids, strings=tuple(rows), single=False))

    def answers(
        self,
        asked: Asked,
        without: Sequence[int] = (),
        on_neurons: Callable[[int, Tensor], None] | None = None,
    ) -> Tensor:
        """``[n, period]`` float64: logits of all numbers after each question, less their mean.

        Parameters
        ----------
        without
            More frequencies to leave out.
        on_neurons
            Called with a layer and its neurons ``[n, neuron]`` at the last token.
        """
        self.job.tick()
        gone = sorted({*self.removed, *without})
        changes = [self._less(gone, asked)] if gone else []
        sites = [Site("mlp_post", layer) for layer in self.layers] if on_neurons else []

        def see(site: Site, value: Tensor) -> None:
            assert on_neurons is not None
            on_neurons(site.block, value[:, -1])

        logits = forward(self.model, asked.tokens, sites, see, changes=changes)
        assert logits is not None
        if not bool(logits.isfinite().all()):
            raise ActivationError(
                f"The logits of {self.model.name} hold NaN or infinity: look at its weights."
            )
        found = logits[:, -1, self.sums.numbers.to(logits.device)].double().cpu()
        return found - found.mean(-1, keepdim=True)

    def _less(self, frequencies: Sequence[int], asked: Asked) -> Change:
        waves = self.basis.kept(self.embedding, frequencies)
        value = -torch.stack([waves[asked.a], waves[asked.b]], dim=1)
        return Change(self.model.anatomy.entry, "add", value, positions=self.sums.at)
