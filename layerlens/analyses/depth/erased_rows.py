"""Erased states of a text of which several predictions are measured, layer by layer."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from torch import Tensor

from layerlens.analyses.answers.output_distance import distances
from layerlens.analyses.depth.erased_states import EFFECTS, instead, put
from layerlens.analyses.depth.layer_subsets import CleanRun
from layerlens.analyses.depth.windows import summed
from layerlens.analyses.sweeps.clean_pass import tolerance
from layerlens.analyses.texts.subjects import each
from layerlens.analyses.texts.text_pair import row_of
from layerlens.errors import InputError
from layerlens.model.sites import Site
from layerlens.run.forward import forward

if TYPE_CHECKING:
    from layerlens.analyses.contract.job import Job
    from layerlens.model.lensmodel import LensModel
    from layerlens.model.text import Tokens

Erased = Sequence[tuple[int, Tensor]]
"""Position of a state, and what takes its place."""


def answer_places(model: LensModel, tokens: Tokens, answers: Any) -> list[list[int]]:
    """Where the predictions of each text are measured, ascending.

    Raises
    ------
    InputError
        A text has none.
    """
    found = []
    given = each(answers, len(tokens.ids), tokens.single, "answers")
    for row, one in enumerate(given):
        places = sorted(set(model.positions(row_of(tokens, row), one)))
        if not places:
            raise InputError(f"answers={answers!r} names no position of text {row}.")
        found.append(places)
    return found


class ErasedRows:
    """One text with every state erased, one at a time, and several of its predictions.

    Parameters
    ----------
    mean
        ``[layer, d_model]``, what takes the place of states.
    answers
        Where predictions are measured.
    reduce
        What is made of their distances.
    share
        Which text this is, of how many.
    """

    def __init__(
        self,
        job: Job,
        model: LensModel,
        text: Tokens,
        mean: Tensor,
        answers: list[int],
        reduce: str,
        share: tuple[int, int],
    ) -> None:
        self.job, self.model, self.text, self.mean = job, model, text, mean
        self.answers, self.reduce, self.share = answers, reduce, share
        self.clean = CleanRun(model, text, job.tick)
        self.blocks = 0
        self.worst = self.late = self.own = 0.0

    def run(
        self, where: np.ndarray, places: np.ndarray, seed: int, verify: int, memory_limit: int
    ) -> float:
        """Erase at tokens ``where``, which are ``places`` of the grid; returns the passes."""
        random, layers = torch.Generator().manual_seed(seed), self.model.n_layers
        lead = {"batch": self.share[0]} if self.job.batched else {}
        checked = set(np.random.default_rng(seed).permutation(layers)[:verify].tolist())
        with self.model.running():
            for half, name in enumerate(EFFECTS):
                for layer in range(layers):
                    states = self.clean.states[layer][0]
                    draw = random if half else None
                    new = [(at, instead(states[at], self.mean[layer], draw)) for at in where]
                    found = self._distances(layer, new, memory_limit)
                    values = summed([found], self.reduce).float().numpy()
                    self._emit(lead, layer, places, name, values)
                    if not half:
                        self._watch(found, where)
                        if layer in checked:
                            self._verify(layer, new, found)
                    done = (2 * self.share[0] + half) * layers + layer + 1
                    self.job.progress(done, 2 * self.share[1] * layers, f"layer {layer}")
            at = int(where[0])
            same = self._distances(0, [(at, self.clean.states[0][0, at])], memory_limit)
            self.own = float(same.max())
        self._check(bool(checked))
        return self.blocks / layers

    def _distances(self, layer: int, erased: Erased, memory_limit: int) -> Tensor:
        """How far each prediction moves, ``[row, answer]``, a row for each state that is erased."""
        state = self.clean.states[layer]
        room = max(1, memory_limit // (4 * state.nbytes))
        parts = []
        for start in range(0, len(erased), room):
            some = erased[start : start + room]
            rows = state.repeat(len(some), 1, 1)
            for row, (at, new) in enumerate(some):
                rows[row, at] = new
            for later in range(layer, self.model.n_layers):
                self.job.tick()
                rows = self.clean.calls(later, rows)
            self.blocks += len(some) * (self.model.n_layers - layer)
            parts.append(self._moved(rows))
        return torch.cat(parts)

    def _moved(self, finals: Tensor) -> Tensor:
        return distances(self.model, self.clean.final, finals, self.answers, self.job.tick)

    def _emit(
        self, lead: dict[str, int], layer: int, places: np.ndarray, name: str, values: np.ndarray
    ) -> None:
        for place, value in zip(places.tolist(), values, strict=True):
            self.job.emit({**lead, "layer": layer, "position": place}, {name: value})

    def _watch(self, found: Tensor, where: np.ndarray) -> None:
        """Collect what an erased state did to predictions before it."""
        early = torch.tensor(self.answers) < torch.from_numpy(where)[:, None]
        self.late = max(self.late, float(found[early].max()) if early.any() else 0.0)

    def _verify(self, layer: int, erased: Erased, found: Tensor) -> None:
        """The state whose absence does most, erased in a pass of the whole model."""
        row = int(found.amax(-1).argmax())
        last = Site("resid_post", self.model.n_layers - 1)
        final: list[Tensor] = []
        forward(
            self.model,
            self.text,
            [last],
            lambda _, state: final.append(state.clone()),
            logits=None,
            changes=[put(layer, *erased[row])],
        )
        self.blocks += self.model.n_layers
        off = self._moved(final[0])[0] - found[row]
        self.worst = max(self.worst, float(off.abs().max()))

    def _check(self, verified: bool) -> None:
        text = f" of text {self.share[0]}" if self.job.batched else ""
        limit = tolerance(self.model)
        what = "distance of the probabilities with a state replaced by itself"
        self.job.check(f"own state changes nothing{text}", self.own, limit, what)
        if not self.model.bidirectional:
            what = "distance of predictions before the token whose state was erased"
            self.job.check(f"nothing before{text}", self.late, limit, what)
        if verified:
            what = "distances of the strongest cells of some layers against full passes"
            self.job.check(f"cells equal the naive run{text}", self.worst, limit, what)
