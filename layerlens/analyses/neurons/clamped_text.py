"""The work of :mod:`layerlens.analyses.neurons.clamp` on one text."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from torch import Tensor

from layerlens.analyses.answers.answer_metric import make_metric
from layerlens.analyses.contract.contract import Job
from layerlens.analyses.neurons.others import Others
from layerlens.analyses.sweeps.cell_sweep import Place, Sweep
from layerlens.errors import InputError
from layerlens.model.sites import Site
from layerlens.run.base import record_base
from layerlens.run.cell import Cell
from layerlens.run.changes import Change

if TYPE_CHECKING:
    from layerlens.analyses.answers.answer_metric import MetricFunction
    from layerlens.model.lensmodel import LensModel
    from layerlens.model.text import Tokens

NEXT = 6
"""Next tokens that are followed."""


class ClampedText:
    """Every neuron of one text held at every value, one at a time.

    Parameters
    ----------
    tokens
        One text.
    places
        Layer and number of each neuron.
    values
        What they are held at.
    lead
        Where the text is in the answer.
    share
        Which text it is, of how many.

    Attributes
    ----------
    following
        The next tokens that are followed, once it has run.
    """

    def __init__(
        self,
        job: Job,
        model: LensModel,
        tokens: Tokens,
        places: Sequence[tuple[int, int]],
        values: Sequence[float],
        lead: Place,
        share: tuple[int, int],
    ) -> None:
        self.job, self.model, self.tokens = job, model, tokens
        self.places, self.values, self.lead, self.share = places, values, lead, share
        sites = dict.fromkeys(Site("mlp_post", layer) for layer, _ in places)
        self.base = record_base(model, tokens, sites)
        self.passes = 1.0
        self.following: list[str] = []
        self._finals = torch.zeros(len(places), len(values), model.d_model)
        assert job.parts is not None
        for number, place in enumerate(places):
            own = self._recorded(place)[:, 0].float().cpu().numpy()
            row = np.full(job.parts.sizes["position"], np.nan, dtype=np.float32)
            row[: len(own)] = own
            self.job.emit(self._at(number), {"activation": row})

    def _recorded(self, place: tuple[int, int]) -> Tensor:
        """The neuron as it is ``[position, 1]``."""
        layer, index = place
        return self.base.trace[Site("mlp_post", layer)][0, :, [index]]

    def _at(self, number: int) -> dict[str, int]:
        """Where a neuron is in the answer."""
        return {**self.lead, **({"neuron": number} if len(self.places) > 1 else {})}

    def ask(self, metric: str | MetricFunction, answer: Any, wrong: Any) -> None:
        """Prepare what is measured."""
        final = self.base.final
        self.measure = make_metric(self.model, metric, final=final, answer=answer, wrong=wrong)
        self.kl = make_metric(self.model, "kl", final=final)
        self.plain = float(self.measure(final.unsqueeze(0))[0])
        units, words = self.measure.units, self.measure.words
        self.job.describe("metric", units=units, long_name=words)
        assert self.job.parts is not None
        for name in self.job.parts.variables:
            if name.removeprefix("random_").startswith("change"):
                self.job.describe(name, units=units)
        self.job.describe("change", long_name=f"change of the {words}")

    def run(
        self, where: Sequence[int], draws: int, seed: int, verify: int, memory_limit: int
    ) -> None:
        """Clamp each neuron, then move random ones as far."""
        if not where:
            raise InputError("No position of the text was chosen: name at least one.")
        self.where, self.limit = tuple(where), memory_limit
        generator = np.random.default_rng(seed)
        own = [self._clamp(number, verify) for number in range(len(self.places))]
        self._next()
        if draws:
            for number in range(len(self.places)):
                self._move_others(number, draws, generator)
        error, limit = np.max(own, axis=0)
        text = f" of text {self.lead['batch']}" if self.lead else ""
        what = "metric with each neuron held at its own activations, less the plain one"
        self.job.check(f"own value changes nothing{text}", error, limit, what)

    def _sweep(self, part: int, **how: Any) -> Sweep:
        """One of two for each neuron of each text."""
        row, texts = self.share
        steps = 2 * len(self.places)
        return Sweep(
            self.job,
            self.model,
            self.base,
            self.measure,
            share=(row * steps + part, texts * steps),
            memory_limit=self.limit,
            **how,
        )

    def _clamp(self, number: int, verify: int) -> tuple[float, float]:
        """Hold one neuron at each value; error and limit of holding it at what it is."""
        layer, index = self.places[number]
        site = Site("mlp_post", layer)

        def seen(cells: Sequence[int], final: Tensor) -> None:
            for cell, state, kl in zip(cells, final.cpu(), self.kl(final).tolist(), strict=True):
                if cell < len(self.values):
                    self._finals[number, cell] = state
                    place = {**self._at(number), "value": cell}
                    self.job.emit(place, {"kl": np.array(kl, dtype=np.float32)})

        sweep = self._sweep(
            number,
            show=lambda values: {
                "metric": values.astype(np.float32),
                "change": (values - self.plain).astype(np.float32),
            },
            lead=self._at(number),
            seen=seen,
        )
        for column, value in enumerate(self.values):
            change = Change(site, "set", value, self.where, neurons=(index,))
            sweep.add(Cell((change,)), {"value": column})
        recorded = self._recorded((layer, index))[list(self.where)]
        as_it_is = Change(site, "set", recorded, self.where, neurons=(index,))
        own = sweep.add(Cell((as_it_is,)), None)
        sweep.run()
        sweep.verify(verify)
        self.passes += sweep.passes
        self.job.note(
            metric=self.measure.name,
            metric_words=self.measure.words,
            answer=self.measure.answer,
            method=sweep.method,
            **({} if self.lead else {"base_metric": self.plain}),
        )
        return abs(float(sweep.values[own]) - self.plain), sweep.tolerance

    def _next(self) -> None:
        """Follow the tokens that are likeliest at any value."""
        best = torch.zeros(self.model.d_vocab)
        for rows in self._finals.split(1):
            best = torch.maximum(best, self._chances(rows[0]).amax(0))
        tokens = best.topk(min(NEXT, len(best))).indices
        self.following = [self.model.token_string(int(token)) for token in tokens]
        for number, finals in enumerate(self._finals):
            chances = self._chances(finals)[:, tokens].T.numpy()
            self.job.emit(self._at(number), {"next_probability": chances})

    def _chances(self, finals: Tensor) -> Tensor:
        """Probabilities ``[value, vocabulary]`` on the CPU."""
        states = finals.to(self.base.last)
        rows = [self.model.unembed(state[None]).float().softmax(-1).cpu() for state in states]
        return torch.cat(rows)

    def _move_others(self, number: int, draws: int, generator: np.random.Generator) -> None:
        """Move random neurons of the layer by as much as the clamped one was, in norm."""
        others = Others(self.model, self.places[number], draws, generator)
        if not others.drawn:
            nothing = np.full(len(self.values), np.nan, dtype=np.float32)
            assert self.job.parts is not None
            for name in self.job.parts.variables:
                if name.startswith("random_"):
                    self.job.emit(self._at(number), {name: nothing})
            return
        kls = np.full(len(others.drawn) * len(self.values), np.nan)

        def seen(cells: Sequence[int], final: Tensor) -> None:
            kls[list(cells)] = self.kl(final).cpu().numpy()

        sweep = self._sweep(len(self.places) + number, show=lambda values: {}, seen=seen)
        recorded = self._recorded(self.places[number])[list(self.where)]
        for other in others.drawn:
            for value in self.values:
                sweep.add(Cell((others.moved(other, recorded, value, self.where),)), None)
        sweep.run()
        self.passes += sweep.passes
        for name, found in (("change", sweep.values - self.plain), ("kl", kls)):
            table = found.reshape(len(others.drawn), -1).astype(np.float32)
            low, high = np.quantile(table, (0.025, 0.975), axis=0).astype(np.float32)
            ends = {"": table.mean(0), "_low": low, "_high": high}
            arrays = {f"random_{name}{end}": row for end, row in ends.items()}
            self.job.emit(self._at(number), arrays)
