"""The work of :mod:`layerlens.analyses.neurons.neuron`."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from torch import Tensor

from layerlens.analyses.answers.answer_metric import make_metric
from layerlens.analyses.contract.contract import Job
from layerlens.analyses.contract.tolerances import logit_tolerance
from layerlens.analyses.neurons.neuron_directions import (
    DIRECTIONS,
    TokenScores,
    neuron_rows,
    through_norms,
    token_rows,
)
from layerlens.analyses.neurons.neuron_table import RANDOM, prominence
from layerlens.analyses.neurons.others import Others
from layerlens.analyses.neurons.top_texts import snippets
from layerlens.analyses.texts.text_pair import row_of
from layerlens.metrics.batch import split
from layerlens.metrics.collection import MetricSet
from layerlens.metrics.neurons import NeuronFiring
from layerlens.metrics.projections import projections
from layerlens.metrics.runner import run_metrics
from layerlens.metrics.top_activations import TopActivations
from layerlens.model.sites import Site
from layerlens.run.base import record_base
from layerlens.run.cell import Cell
from layerlens.run.changes import Change
from layerlens.run.many_edits import run_cells

if TYPE_CHECKING:
    from layerlens.model.lensmodel import LensModel
    from layerlens.model.text import Tokens

_ENDS = {"output": ("raised", "lowered"), "input": ("read",), "gate": ("gate",)}
"""What the outermost tokens of each direction are called, the largest first."""


class Page:
    """What is known of one neuron.

    Parameters
    ----------
    place
        Its layer and number.
    k
        How many tokens and places.

    Attributes
    ----------
    ends
        Names of the ends of its directions that there are.
    """

    def __init__(
        self, job: Job, model: LensModel, tokens: Tokens, place: tuple[int, int], k: int
    ) -> None:
        self.job, self.model, self.tokens, self.k = job, model, tokens, k
        self.layer, self.number = place
        parts = {part.name for part in projections(model, self.layer)}
        self.directions = [
            name for name, part in DIRECTIONS.items() if part in parts or name == "output"
        ]
        self.ends = [end for name in self.directions for end in _ENDS[name]]
        self.passes = 0

    def decode(self, norm: str, seed: int) -> None:
        """Find the tokens that it writes and reads, by its weights."""
        generator = torch.Generator().manual_seed(seed)
        decoder = TokenScores(token_rows(self.model), "logit")
        for direction in self.directions:
            row = neuron_rows(self.model, self.layer, direction)[[self.number]]
            drawn = torch.randn(RANDOM, row.shape[1], generator=generator).to(row)
            rows = torch.cat([row, drawn * row.norm() / drawn.norm(dim=1, keepdim=True)])
            if norm == "gamma":
                rows = through_norms(self.model, self.layer, direction, rows)
            tokens, scores = decoder.ends(rows, self.k, self.job.tick)
            for side, end in enumerate(_ENDS[direction]):
                found = {"token": tokens[0, side].int(), "score": scores[0, side]}
                self.job.emit({}, {f"{end}_{what}": one.numpy() for what, one in found.items()})
            if direction == "output":
                far = prominence(decoder, rows, scores)
                arrays = {"prominence": far[0], "random_prominence": far[1:].median()}
                self.job.emit({}, {name: one.numpy() for name, one in arrays.items()})

    def read(
        self, side: str, epsilon: float, skip_first: bool | int, batch_size: int | None
    ) -> None:
        """Find the places that excite it most, and how often it is on, batch by batch."""
        options: dict[str, dict[str, Any]] = {
            TopActivations.name: {
                "layer": self.layer, "neurons": [self.number], "k": self.k, "side": side
            },
            NeuronFiring.name: {"epsilon": epsilon},
        }  # fmt: skip
        made = MetricSet.make(self.model, list(options), skip_first=skip_first, options=options)
        top = next(metric for metric in made.metrics if isinstance(metric, TopActivations))
        firing = next(metric for metric in made.metrics if isinstance(metric, NeuronFiring))
        batches = split(self.tokens, batch_size)
        done = iter(range(1, len(batches) + 1))

        def show(*_: object) -> None:
            value = top.value()
            names = ("text", "position", "token")
            places = {name: value[f"{top.name}_{name}"][0] for name in names}
            self.job.emit({}, {"activation": value[top.name][0], **places})
            self.job.emit({}, self._firing(firing.arrays))
            self.job.progress(next(done), len(batches), "texts")

        self.passes += run_metrics(self.model, batches, made, tick=self.job.tick, on_batch=show)
        texts, positions = (top.arrays[name][0].tolist() for name in ("text", "position"))
        self.places = list(zip(texts, positions, strict=True))
        missed = abs(made.tokens - sum(self.tokens.lengths))
        self.job.check("tokens", missed, 0, "tokens fed but not seen, padding aside")
        told = json.dumps(snippets(top, self.tokens)[0], ensure_ascii=False)
        self.job.note(texts=made.texts, tokens_counted=made.kept, snippets=told)

    def _firing(self, arrays: Mapping[str, np.ndarray]) -> dict[str, np.ndarray]:
        """How often it is on, and its layer, so far."""
        counted, width = arrays["tokens"][self.layer], arrays["width"][self.layer]
        share = arrays["on"][self.layer, :width] / counted
        found = {"firing": share[self.number], "layer_firing": share.mean(), "counted": counted}
        return {name: np.asarray(value) for name, value in found.items()}

    def remove(self, draws: int, generator: np.random.Generator) -> None:
        """Set it to 0 at each place, and move random neurons there by as much."""
        others = Others(self.model, (self.layer, self.number), draws, generator)
        known = [(text, position) for text, position in self.places if text >= 0]
        off, nothing = 0.0, np.full(self.k - len(known), np.nan, dtype=np.float32)
        names = ["kl_without", *(["random_kl_without"] if draws else [])]
        self.job.emit({"rank": slice(len(known), self.k)}, dict.fromkeys(names, nothing))
        for rank, (text, position) in enumerate(known):
            own, without, *moved = self._divergences(text, position, others)
            off = max(off, abs(own))
            self.job.emit({"rank": rank}, {"kl_without": np.asarray(without)})
            if draws:
                chance = np.mean(moved) if moved else np.nan
                self.job.emit({"rank": rank}, {"random_kl_without": np.asarray(chance)})
            self.job.progress(rank + 1, len(known), "places")
        what = "KL divergence with the neuron set to its own activation, at each place"
        self.job.check("own value changes nothing", off, logit_tolerance(self.model.dtype), what)
        self.job.note(passes=self.passes, layer=self.layer, number=self.number)

    def _divergences(self, text: int, position: int, others: Others) -> list[float]:
        """KL divergences at a place: set to its own value, to 0, and each random neuron moved."""
        site, where = Site("mlp_post", self.layer), (position,)
        tokens = row_of(self.tokens, text)
        base = record_base(self.model, tokens, [site], asked=position)
        measure = make_metric(self.model, "kl", final=base.final)
        own = base.trace[site][0, position, self.number].view(1, 1)
        changes = [
            *(Change(site, "set", value, where, neurons=(self.number,)) for value in (own, 0.0)),
            *(others.moved(other, own, 0.0, where) for other in others.drawn),
        ]
        found = [0.0] * len(changes)

        def take(numbers: Sequence[int], final: Tensor) -> None:
            for number, kl in zip(numbers, measure(final).tolist(), strict=True):
                found[number] = kl

        cells = [Cell((change,)) for change in changes]
        run_cells(self.model, base, cells, take, tick=self.job.tick, at_once=len(cells))
        self.passes += 1 + len(cells)
        return found
